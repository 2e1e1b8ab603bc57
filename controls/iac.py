"""FR 1, identification and authentication control: who is it?"""

from __future__ import annotations

from collections.abc import Callable

from controls.shapes import Check, Control, Needs
from devices.accounts import Accounts
from devices.certificates import client_context, server_context
from devices.modbus import Peer
from devices.opcua import PlantServer
from devices.opcua_model import Role, UaUser
from devices.world import UaCredentials, World
from testbed import site as sites

#: What an account is shipped with: the user's name again, as on so much equipment.
SHARED, SERVICE = "operator", "service"
#: What an account's role may do at an OPC UA server.
UA_ROLES: dict[str, Role] = {
    "viewer": "viewer",
    "maintenance": "viewer",
    "operator": "operator",
    "supervisor": "operator",
    "engineer": "engineer",
    "admin": "admin",
}
#: The port that IANA registered for Modbus/TCP Security.
SECURE_PORT = 802


def accounts_of(world: World) -> Accounts:
    """The site's account store, made at the first call; one store serves every device that knows accounts."""
    if world.accounts is None:
        world.accounts = Accounts(world.loop.time, world.site.epoch.timestamp(), world.stream("accounts"))
    return world.accounts


def human_users(world: World) -> None:
    """SR 1.1: HMI and OPC UA ask who it is. One shared operator account, default password."""
    accounts = accounts_of(world)
    accounts.add(SHARED, "operator", SHARED, essential=True)
    accounts.add(SERVICE, "viewer", SERVICE)
    for hmi in world.hmis.values():
        hmi.seams.accounts = accounts
    for operator in world.operators.values():
        operator.name, operator.password = SHARED, SHARED
    for gateway in world.gateways.values():
        gateway.server.authenticate = _ua_login(accounts, gateway.server)
    for name in world.historians:
        world.seams.ua_credentials[name] = UaCredentials(SERVICE, SERVICE)


def _ua_login(
    accounts: Accounts, server: PlantServer
) -> Callable[[str | None, str | None, bytes | None], UaUser | None]:
    def authenticate(user: str | None, password: str | None, _certificate: bytes | None) -> UaUser | None:
        if user is None or password is None:
            return None
        # A one-time code travels behind the password, as RADIUS sites do it.
        secret, _, code = password.partition("#")
        found, _reason = accounts.check(user, secret, code or None, server.asking)
        return None if found is None else UaUser(found.name, UA_ROLES[found.role])

    return authenticate


def unique_users(world: World) -> None:
    """SR 1.1 RE 1: each person has an account of their own; the shared one is disabled."""
    accounts = accounts_of(world)
    for name, asset in world.site.assets.items():
        if not isinstance(asset, sites.Hmi):
            continue
        for person in asset.operators:
            accounts.add(person.name, person.role, person.name, essential=person.role == "operator")
        operator = world.operators.get(name)
        if operator is not None:
            person_name = next(person.name for person in asset.operators if person.role == "operator")
            operator.name = operator.password = person_name
    accounts.accounts[SHARED].enabled = False


def code_from_untrusted(world: World) -> None:
    """SR 1.1 RE 2: a one-time code for whoever comes from an untrusted zone."""
    accounts = accounts_of(world)
    _enroll(world, accounts)
    untrusted = {host.address for host in world.network.hosts.values() if not host.zone.trusted}
    by_address = world.network.by_address
    accounts.rules.needs_code = lambda address: (
        address in untrusted or address not in by_address or not by_address[address].zone.trusted
    )


def code_everywhere(world: World) -> None:
    """SR 1.1 RE 3: a one-time code on every network."""
    accounts = accounts_of(world)
    _enroll(world, accounts)
    service = {world.network.hosts[name].address for name in world.historians}
    # Programs have no token to read from: they are told apart by address here and by certificate under SR 1.2.
    accounts.rules.needs_code = lambda address: address not in service


def _enroll(world: World, accounts: Accounts) -> None:
    for name, account in accounts.accounts.items():
        if account.totp_secret is None and account.role != "viewer":
            secret = accounts.enroll_token(name)
            for operator in world.operators.values():
                if operator.name == name:
                    operator.token = secret


def known_devices(world: World) -> None:
    """SR 1.2: a PLC answers only devices of the inventory, told apart by address."""
    known = {host.address for name, host in world.network.hosts.items() if name in world.site.assets}

    def admit(peer: Peer) -> bool:
        return peer.address in known

    for plc in world.plcs.values():
        plc.seams.admit.append(admit)


def device_certificates(world: World) -> None:
    """SR 1.2 RE 1: each device proves an identity of its own by certificate (Modbus/TCP Security)."""
    for name, plc in world.plcs.items():
        plc.seams.tls = server_context(name)
        plc.seams.port = SECURE_PORT
        plc.seams.admit.append(lambda peer: peer.identity is not None)
    world.seams.modbus_tls = lambda source, plc: (
        client_context(source, _role(world, source)) if world.plcs[plc].seams.tls is not None else None
    )


def _role(world: World, asset: str) -> str:
    return world.site.assets[asset].kind if asset in world.site.assets else "unknown"


def changed_credentials(world: World) -> None:
    """SR 1.5: default passwords are replaced by generated ones."""
    accounts = accounts_of(world)
    stream = world.stream("passwords")
    for name, account in list(accounts.accounts.items()):
        password = f"{stream.getrandbits(80):020x}"
        renewed = accounts.add(name, account.role, password, essential=account.essential)
        renewed.totp_secret, renewed.enabled = account.totp_secret, account.enabled
        for operator in world.operators.values():
            if operator.name == name:
                operator.password = password
        for credentials in world.seams.ua_credentials.values():
            if credentials.user == name:
                credentials.password = password


def lock_out(world: World) -> None:
    """SR 1.11: repeated failures lock an account for a time; accounts that operators need are spared and reported."""
    rules = accounts_of(world).rules
    rules.lockout_attempts = int(world.figures["lockout.attempts"])
    rules.lockout_duration = world.figures["lockout.duration"]


CONTROLS: dict[str, Control] = {
    "SR 1.1": human_users,
    "SR 1.1 RE 1": unique_users,
    "SR 1.1 RE 2": code_from_untrusted,
    "SR 1.1 RE 3": code_everywhere,
    "SR 1.2": known_devices,
    "SR 1.2 RE 1": device_certificates,
    "SR 1.5": changed_credentials,
    "SR 1.11": lock_out,
}

#: What must be in force for a requirement to mean anything.
NEEDS: Needs = {
    "SR 1.1 RE 1": ("SR 1.1",),
    "SR 1.1 RE 2": ("SR 1.1",),
    "SR 1.1 RE 3": ("SR 1.1",),
    "SR 1.5": ("SR 1.1",),
    "SR 1.11": ("SR 1.1",),
}

#: Whether a requirement that is in force does its work, zone by zone; one without a check does while it is on.
CHECKS: dict[str, Check] = {}
