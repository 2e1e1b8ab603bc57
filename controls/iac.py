"""FR 1, identification and authentication control: who is it?"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterator
from ipaddress import ip_address

from controls.shapes import Check, Control, Needs, by_zone
from controls.verification import STRANGER, every_controller
from devices.account_office import AccountOffice, Place
from devices.accounts import Account, Accounts, User, without_code
from devices.audit import Audit
from devices.auth_server import AuthClient, log_in_at
from devices.certificates import AdHoc, Issuer
from devices.credentials import UaCredentials
from devices.gateway import Gateway
from devices.historian import Historian
from devices.hmi import Hmi
from devices.modbus import Peer
from devices.opcua import PlantServer
from devices.opcua_model import Role, UaUser
from devices.passwords import PasswordRule, choose
from devices.pki import TOLERABLE, RelyingParty, load_list, subject_of
from devices.plc import Plc
from devices.remote import PORT as REMOTE_PORT
from devices.remote import RemoteGateway, request_for
from devices.wireless import USUAL_PASSPHRASES, Identity
from devices.world import World
from testbed import site as sites
from testbed.network import Conduit, Link, Observer, Packet, Verdict

#: Names of a machine's secrets in its store.
PASSWORD, PAPERS = "password", "key and certificate"
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
#: Somebody who worked on the wireless network and no longer does.
FORMER = "contractor1"
#: What stands before a log-in under SR 1.12.
NOTICE = "use of this system is restricted to its tasks and is recorded"
#: s in a day
DAY = 86_400.0
#: Share of a password's lifetime after which it is changed (assumption: a tenth before the end).
ROTATE_AT = 0.9
#: Lifetimes of a password that its past goes back at most.
PAST = 20
#: The port that IANA registered for Modbus/TCP Security.
SECURE_PORT = 802


def accounts_of(world: World) -> Accounts:
    """The store that decides at the operator station, made at the first call; all stores share its rules."""
    if world.accounts is None:
        stores = [world.account_store(name) for name in (*world.hmis, *world.gateways, *world.auth_servers)]
        world.accounts = stores[0] if stores else world.account_store(world.site.name)
        for store in stores:
            store.rules = world.accounts.rules
    return world.accounts


def _give(
    world: World,
    name: str,
    role: str,
    password: str,
    *,
    essential: bool = False,
    program: bool = False,
    default: bool = False,
) -> None:
    """Make an account in every store; its password has not been changed for as long as nothing demands it."""
    accounts_of(world)
    for store in world.account_stores.values():
        account = store.add(name, role, password, essential=essential, program=program, default=default)
        account.changed = -world.figures["password.age_without_rule"]
    _now_types(world, name, password)


def _now_types(world: World, name: str, password: str) -> None:
    """Whoever holds the account, a person or a program, knows its password."""
    world.passwords[name] = password
    for operator in world.operators.values():
        if operator.name == name:
            operator.password = password
    for credentials in world.seams.ua_credentials.values():
        if credentials.user == name:
            credentials.password = password


def _choice(world: World, stream: random.Random) -> str:
    """A password of a person's own choice, under the rule in force."""
    figures, rule = world.figures, accounts_of(world).rules.password
    return choose(stream, figures["passwords.common_share"], figures["passwords.cheap_share"], rule)


def _generated(world: World, stream: random.Random) -> str:
    """A password for a program, which need not remember it, of every kind of characters."""
    rule = accounts_of(world).rules.password
    digits = max(20, rule.length if rule is not None else 0)
    return f"{stream.getrandbits(4 * digits):0{digits}x}-Z"


def people(world: World) -> Iterator[sites.Operator]:
    """Everybody of the site who works with an operator station."""
    for asset in world.site.assets.values():
        if isinstance(asset, sites.Hmi):
            yield from asset.operators


def _former(world: World) -> Iterator[sites.FormerPerson]:
    for asset in world.site.assets.values():
        if isinstance(asset, sites.Hmi):
            yield from asset.former


def human_users(world: World) -> None:
    """SR 1.1: HMI, its terminal and OPC UA ask who it is. One shared operator account, default password."""
    accounts_of(world)
    _give(world, SHARED, "operator", SHARED, essential=True, default=True)
    _give(world, SERVICE, "viewer", SERVICE, program=True, default=True)
    stream = world.stream("former people")
    for former in _former(world):
        _give(world, former.name, former.role, _choice(world, stream))
    for name, hmi in world.hmis.items():
        hmi.seams.accounts = world.account_store(name)
    for operator in world.operators.values():
        operator.name, operator.password = SHARED, SHARED
    for name, gateway in world.gateways.items():
        gateway.server.authenticate = _ua_login(world.account_store(name), gateway.server)
    for name in world.historians:
        world.seams.ua_credentials[name] = UaCredentials(SERVICE, SERVICE)
    for portal in world.portals.values():
        portal.seams.authenticate = _portal_login(world)


def _portal_login(world: World) -> Callable[[str, str, str], str | None]:
    """A role from whichever store decides at the operator station at that time."""

    def authenticate(user: str, password: str, address: str) -> str | None:
        found, _reason = accounts_of(world).check(user, *without_code(password), address)
        return found.role if found is not None else None

    return authenticate


def _ua_login(
    accounts: Accounts, server: PlantServer, client: AuthClient | None = None
) -> Callable[[str | None, str | None, bytes | None], UaUser | Awaitable[UaUser | None] | None]:
    def ua_user(found: User | None) -> UaUser | None:
        role = UA_ROLES.get(found.role) if found is not None else None
        return UaUser(found.name, role) if found is not None and role is not None else None

    async def ask(user: str, password: str, address: str) -> UaUser | None:
        found, _reason = await log_in_at(accounts, client, user, *without_code(password), address)
        return ua_user(found)

    def authenticate(
        user: str | None, password: str | None, _certificate: bytes | None
    ) -> UaUser | Awaitable[UaUser | None] | None:
        if user is None or password is None:
            return None
        if client is not None:
            return ask(user, password, server.asking)
        found, _reason = accounts.check(user, *without_code(password), server.asking)
        return ua_user(found)

    return authenticate


def unique_users(world: World) -> None:
    """SR 1.1 RE 1: each person has an account of their own; the shared one is disabled."""
    accounts_of(world)
    for person in people(world):
        if person.took_over is None:  # who was given somebody else's identifier goes on using that
            essential = person.role == "operator"
            _give(world, person.name, person.role, person.name, essential=essential, default=True)
    for name, operator in world.operators.items():
        asset = world.site.assets[name]
        assert isinstance(asset, sites.Hmi)
        operator.name = next(person.name for person in asset.operators if person.role == "operator")
        operator.password = world.passwords[operator.name]
    for store in world.account_stores.values():
        store.accounts[SHARED].enabled = False


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
            for store in world.account_stores.values():  # one token per person, good at every device
                store.accounts[name].totp_secret = secret
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
        plc.seams.tls = _issuer(world, name).server_context(name)
        plc.seams.port = SECURE_PORT
        plc.seams.admit.append(lambda peer: peer.identity is not None)
    world.seams.modbus_tls = lambda source, plc: (
        _issuer(world, plc).client_context(source, _role(world, source))
        if world.plcs[plc].seams.tls is not None
        else None
    )
    _hand_out(world)


def _issuer(world: World, plc: str) -> Issuer:
    """Who made the certificates that a controller goes by: not the site's authority if it has no means for that."""
    return world.seams.issuer if not world.relying_parties or plc in world.relying_parties else AdHoc()


def _hand_out(world: World) -> None:
    """Every device that connects to controllers keeps its key and certificate, and so do those that once did."""

    def papers(name: str, role: str) -> Callable[[], bytes]:
        return lambda: world.seams.issuer.papers(name, role)

    for name in (*world.plcs, *world.hmis, *world.gateways, *world.workstations, *world.stations):
        if name in world.keystores:
            world.keystores[name].keep(PAPERS, papers(name, _role(world, name)))
    for name, disk in world.old_disks.items():
        disk.write("papers.pem", world.seams.issuer.papers(name, "workstation"))


def _role(world: World, asset: str) -> str:
    return world.site.assets[asset].kind if asset in world.site.assets else "unknown"


def changed_credentials(world: World) -> None:
    """SR 1.5: default passwords and secrets are replaced: people choose theirs, programs' are generated."""
    accounts = accounts_of(world)
    stream = world.stream("passwords")
    for account in list(accounts.accounts.values()):
        if account.default:
            _renew(world, account, stream, account.changed)
    for name, manager in world.firewall_managers.items():
        secrets = world.stream(f"firewall manager:{name}")
        manager.passwords = {user: secrets.randbytes(10).hex() for user in manager.passwords}
    world.seams.shared_secret = lambda device: world.stream(f"shared secret:{device}").randbytes(16)


def _renew(world: World, account: Account, stream: random.Random, moment: float) -> None:
    """Change a password to one that the rules take."""
    while True:
        password = _generated(world, stream) if account.program else _choice(world, stream)
        if _set_password(world, account.name, password, moment):
            return


def _set_password(world: World, name: str, password: str, moment: float) -> bool:
    """Change a password in every store at ``moment`` (s); false if the rules in force do not take it."""
    stores = [store for store in world.account_stores.values() if name in store.accounts]
    if any(store.change(name, password, moment=moment) is not None for store in stores):
        return False
    _now_types(world, name, password)
    return True


def wireless_access(world: World) -> None:
    """SR 1.6: whoever joins the wireless network proves that it knows the common passphrase (WPA2-Personal)."""
    passphrase = world.stream("wireless passphrase").choice(USUAL_PASSPHRASES)
    for point in world.access_points.values():
        point.seams.passphrase = passphrase
    for station in world.stations.values():
        station.passphrase = passphrase


def wireless_identities(world: World) -> None:
    """SR 1.6 RE 1: each wireless device has an identity and key of its own, which can be revoked, and no passphrase."""
    stream = world.stream("wireless identities")
    for point in world.access_points.values():
        known = {name: Identity(name, stream.randbytes(32)) for name in (*world.stations, FORMER)}
        known[FORMER].enabled = False
        point.seams.identities = known
        for name, station in world.stations.items():
            station.identity, station.passphrase = known[name], None


def _wireless_closed(world: World) -> dict[str, bool]:
    """An access point asks for a key while it is up; what has failed lets nobody in, and has no work to do."""
    return {
        point.zone.name: point.seams.passphrase is not None or point.seams.identities is not None
        for point in world.access_points.values()
    }


def _former_out(world: World) -> dict[str, bool]:
    """Individual identities do their work while those of people who have left open nothing."""
    return {
        point.zone.name: point.seams.identities is not None
        and not (FORMER in point.seams.identities and point.seams.identities[FORMER].enabled)
        for point in world.access_points.values()
    }


def remote_access(world: World) -> None:
    """SR 1.13: from outside one comes in through the gateway only, with a log-in; other ways are shut and watched."""
    untrusted = {name for name, zone in world.network.zones.items() if not zone.trusted}
    gateways = {gateway.host.address for gateway in world.remote_gateways.values()}

    def only_gateways(packet: Packet) -> Verdict:
        flow = packet.flow
        if flow.source_zone in untrusted and flow.target_port == REMOTE_PORT and flow.target not in gateways:
            return Verdict.DROP
        return Verdict.ACCEPT

    for conduit in world.network.conduits.values():
        if not all(
            zone.trusted for zone in conduit.zones
        ):  # whatever comes from outside crosses one of these
            conduit.add_policy("SR 1.13", only_gateways)
            conduit.observers.append(_ways_in(world, conduit))
    for router in world.cellular_routers.values():
        router.policies.append(("SR 1.13 shut", lambda _packet: Verdict.DROP))
    for service in world.session_services.values():
        service.admits = gateways.__contains__
    for gateway in world.remote_gateways.values():
        gateway.seams.authenticate = _remote_login(world, gateway)


def _ways_in(world: World, conduit: Conduit) -> Observer:
    audit = world.boundary_audits.setdefault(conduit.name, Audit(conduit.name))

    def observe(_link: Link, packet: Packet, policy: str, _verdict: Verdict) -> None:
        if policy == "SR 1.13":
            audit("remote.denied", peer=packet.source, target=packet.target, port=packet.target_port)

    return observe


def _remote_login(world: World, gateway: RemoteGateway) -> Callable[[str, str, str | None, str], str | None]:
    """A store of the gateway's own, under the log-in rules of the site where it has any."""
    accounts = Accounts(
        world.loop.time, world.site.epoch.timestamp(), world.stream(f"accounts:{gateway.name}")
    )
    if world.accounts is not None:
        accounts.rules = world.accounts.rules
    asset = world.site.assets[gateway.name]
    assert isinstance(asset, sites.JumpHost)
    for name in asset.users:
        user = world.remote_users[name]
        user.password = f"{world.stream(f'password:{name}').getrandbits(80):020x}"
        accounts.add(name, "maintenance", user.password)
        user.token = accounts.enroll_token(name)

    def authenticate(user: str, password: str, code: str | None, address: str) -> str | None:
        found, reason = accounts.check(user, password, code, address)
        return None if found is not None else reason

    return authenticate


def approved_remote_access(world: World) -> None:
    """SR 1.13 RE 1: a supervisor of the site lets each session from outside in, on the telephone, or does not."""

    async def approve(user: str, target: str) -> bool:
        return await world.staff.approve("supervisor", request_for(user, target), place="on_call")

    for gateway in world.remote_gateways.values():
        gateway.seams.approve = approve


def hardware_secrets(world: World) -> None:
    """SR 1.5 RE 1: passwords of programs are in hardware, which logs in with them and gives no copy of them."""
    for store in world.keystores.values():
        store.hardware.add(PASSWORD)


def public_key_infrastructure(world: World) -> None:
    """SR 1.8: certificates come from the site's authority and expire; devices refuse what its list has as revoked.

    A silent authority stops nobody: the last list stays good, and out of date it does not keep out essential peers.
    """
    if not world.authorities:
        return
    authority = next(iter(world.authorities.values()))
    world.seams.issuer, world.seams.ua_papers = authority, authority.ua_papers
    if world.seams.modbus_tls is not None:
        for name, plc in world.plcs.items():
            plc.seams.tls = authority.server_context(name) if plc.seams.tls is not None else None
        _hand_out(world)
    devices: dict[str, Plc | Gateway | Historian] = {**world.plcs, **world.gateways, **world.historians}
    for name, device in devices.items():
        party = RelyingParty(
            device.host,
            device.audit,
            authority.certificate,
            world.site.epoch,
            authority.host.address,
            authority.server.port,
            world.figures["pki.fetch_every"],
            load_list(authority.revocations()),
        )
        party.on_news.append(_told(world, name))
        world.relying_parties[name] = party
        world.added_flows.append(
            sites.Flow(
                source=name,
                target=authority.name,
                port=authority.server.port,
                protocol="http",
                purpose="revocation list",
            )
        )
    for name, plc in world.plcs.items():
        plc.seams.admit.append(_certified(world, plc, world.relying_parties[name]))
    stream = world.stream("revocation")

    def lost(name: str) -> None:
        seconds = stream.lognormvariate(*world.figures.lognormal("pki.revoke"))
        world.loop.wake(world.loop.time() + seconds, authority.revoke, name)

    world.on_device_lost.append(lost)


def _told(world: World, name: str) -> Callable[[int], None]:
    def told(news: int) -> None:
        world.trace.record("response", name, what=f"{news} revoked certificates refused from now on")

    return told


def _certified(world: World, plc: Plc, party: RelyingParty) -> Callable[[Peer], bool]:
    assets = world.site.assets
    essential = {
        name for name, asset in assets.items() if isinstance(asset, sites.Hmi) and plc.name in asset.polls
    }
    essential |= {
        name
        for name, asset in assets.items()
        if isinstance(asset, sites.Controller) and plc.name in asset.peers
    }

    def admit(peer: Peer) -> bool:
        if plc.seams.tls is None:
            return True
        flaw = party.flaw(peer.certificate)
        if flaw is None:
            return True
        tolerated = flaw in TOLERABLE and peer.identity in essential
        kind = "certificate.tolerated" if tolerated else "certificate.refused"
        plc.audit(kind, peer=peer.address, subject=peer.identity, reason=flaw)
        return tolerated

    return admit


def _lists_current(world: World) -> dict[str, bool]:
    """Revocation works where a list is not out of date and its authority is there to make the next."""
    there = any(authority.host.up for authority in world.authorities.values())
    return by_zone(
        (party.host.zone.name, there and party.current) for party in world.relying_parties.values()
    )


def public_key_strength(world: World) -> None:
    """SR 1.9: chain, dates, revocation and key of every certificate are checked, and it is good for one asset only.

    That asset must be in the inventory, be of the kind that the certificate says, and be connecting from its zone.
    """
    for plc in world.plcs.values():
        plc.seams.admit.append(_is_that_asset(world, plc))
    for name, gateway in world.gateways.items():
        if name in world.relying_parties:
            gateway.server.trust = _trusted(world, gateway, world.relying_parties[name])
            gateway.server.authenticate = _from_its_zone(world, gateway.server)
    world.seams.ua_trust = {
        name: _names_an_asset(world, world.relying_parties[name])
        for name in world.historians
        if name in world.relying_parties
    }


def _in_zone(world: World, asset: str, address: str) -> bool:
    return (
        asset in world.site.assets
        and ip_address(address) in world.network.zones[world.site.assets[asset].zone].subnet
    )


def _is_that_asset(world: World, plc: Plc) -> Callable[[Peer], bool]:
    def admit(peer: Peer) -> bool:
        if plc.seams.tls is None:
            return True
        name = peer.identity or ""
        if _in_zone(world, name, peer.address) and peer.role == world.site.assets[name].kind:
            return True
        plc.audit("certificate.refused", peer=peer.address, subject=name, reason="not that asset")
        return False

    return admit


def _names_an_asset(world: World, party: RelyingParty) -> Callable[[bytes], bool]:
    return lambda certificate: (
        party.flaw(certificate) in (None, *TOLERABLE) and subject_of(certificate) in world.site.assets
    )


def _trusted(world: World, gateway: Gateway, party: RelyingParty) -> Callable[[bytes], bool]:
    def trust(certificate: bytes) -> bool:
        flaw, name = party.flaw(certificate), subject_of(certificate)
        if flaw is None and name in world.site.assets:
            return True
        gateway.audit("certificate.refused", subject=name, reason=flaw or "no asset of the site")
        return False

    return trust


def _from_its_zone(
    world: World, server: PlantServer
) -> Callable[[str | None, str | None, bytes | None], UaUser | Awaitable[UaUser | None] | None]:
    before = server.authenticate

    def authenticate(
        user: str | None, password: str | None, certificate: bytes | None
    ) -> UaUser | Awaitable[UaUser | None] | None:
        if certificate is not None and not _in_zone(world, subject_of(certificate) or "", server.asking):
            return None
        return (
            before(user, password, certificate)
            if before is not None
            else UaUser(user or "anonymous", "engineer")
        )

    return authenticate


def hardware_keys(world: World) -> None:
    """SR 1.9 RE 1: private keys of devices are in hardware, which signs with them and gives no copy of them."""
    for store in world.keystores.values():
        store.hardware.add(PAPERS)


def lock_out(world: World) -> None:
    """SR 1.11: repeated failures lock an account for a time; accounts that operators need are spared and reported."""
    rules = accounts_of(world).rules
    rules.lockout_attempts = int(world.figures["lockout.attempts"])
    rules.lockout_duration = world.figures["lockout.duration"]
    # At its own screen an operator's account is never locked; from other addresses it is the address that waits.
    rules.stations = frozenset(world.network.hosts[name].address for name in world.hmis).__contains__
    rules.interactive_programs = False


def account_management(world: World) -> None:
    """SR 1.3: an administrator closes accounts of people who leave, device by device, and reviews all periodically."""
    accounts_of(world)
    roles = {person.name: str(person.role) for person in people(world)}
    roles |= {SHARED: "operator", SERVICE: "viewer"}
    # An identifier that was handed on looks like one in use: a review cannot tell whose it is.
    known = accounts_of(world).accounts
    handed = {
        person.took_over
        for person in people(world)
        if person.took_over is not None and known[person.took_over].enabled
    }
    roles |= {former.name: str(former.role) for former in _former(world) if former.name in handed}
    office = AccountOffice(
        [Place(name, world.account_store(name)) for name in (*world.hmis, *world.gateways)],
        roles,
        world.stream("account office"),
        lambda stream: stream.lognormvariate(*world.figures.lognormal("accounts.visit")),
    )

    def closed(name: str) -> None:
        world.trace.record("response", "administrator", what=f"account {name} closed")

    def found(name: str) -> None:
        world.trace.record("finding", "administrator", what=f"account {name} of nobody")

    office.on_closed.append(closed)
    office.on_found.append(found)
    world.account_office = office
    every = world.figures["accounts.review_every"]
    last = office.stream.uniform(0, every)  # s before the run
    for former in _former(world):
        if former.left * DAY > last and former.name not in handed:
            for place in office.places:
                place.close(former.name)

    def review(due: float) -> None:
        office.review()
        world.loop.wake(due + every, review, due + every)

    world.loop.wake(every - last, review, every - last)


def _nobodys(world: World) -> dict[str, bool]:
    """Account management works where every open account is of somebody who should have it."""
    office = world.account_office
    if office is None:
        return {}
    strays = office.strays()
    return by_zone((world.site.assets[place.name].zone, place.name not in strays) for place in office.places)


def unified_accounts(world: World) -> None:
    """SR 1.3 RE 1: HMI and OPC UA ask one RADIUS server, so that closing an account there closes it everywhere.

    Devices keep accounts that essential functions need, for while the server is silent.
    """
    if not world.auth_servers or world.account_office is None:
        return
    server = next(iter(world.auth_servers.values()))
    world.accounts = server.accounts
    office = world.account_office
    closed = [
        name
        for place in office.places
        for name, account in place.accounts.accounts.items()
        if not account.enabled
    ]
    devices: dict[str, Hmi | Gateway] = {**world.hmis, **world.gateways}
    for name, device in devices.items():
        secret = world.seams.shared_secret(name)
        client = AuthClient(
            device.host,
            server.host.address,
            secret,
            world.stream(f"radius:{name}"),
            server.port,
            world.figures["auth.timeout"],
            int(world.figures["auth.tries"]),
            world.figures["auth.dead_time"],
            device.audit,
        )
        server.secrets[device.host.address] = secret
        world.auth_clients[name] = client
        own = world.account_store(name)
        for account in list(own.accounts.values()):
            if not account.essential:
                del own.accounts[account.name]
    for name, hmi in world.hmis.items():
        hmi.seams.server = world.auth_clients[name]
    for name, gateway in world.gateways.items():
        gateway.server.authenticate = _ua_login(
            world.account_store(name), gateway.server, world.auth_clients[name]
        )
    office.places = [Place(server.name, server.accounts, [place.accounts for place in office.places])]
    for name in closed:
        office.places[0].close(name)
    office.walk = lambda stream: stream.lognormvariate(*world.figures.lognormal("accounts.central"))


def _server_answers(world: World) -> dict[str, bool]:
    """Unified accounts work in a zone while its devices reach the server and keep open nothing that it has closed."""
    found: dict[str, bool] = {}
    for server in world.auth_servers.values():
        for name, client in world.auth_clients.items():
            closed = {one for one, account in server.accounts.accounts.items() if not account.enabled}
            left = any(
                one in closed and account.enabled
                for one, account in world.account_store(name).accounts.items()
            )
            zone = world.site.assets[name].zone
            works = server.serving and client.silent_since is None and not left
            found[zone] = found.get(zone, True) and works
    return found


def identifier_management(world: World) -> None:
    """SR 1.4: an identifier belongs to one person and is not handed on; a newcomer gets one with rights of its own."""
    accounts_of(world)
    for person in people(world):
        if person.took_over is not None:
            for store in world.account_stores.values():
                store.accounts[person.took_over].enabled = False
            _give(world, person.name, person.role, person.name, default=True)


def password_strength(world: World) -> None:
    """SR 1.7: passwords that are chosen from now on have the configured length and kinds of characters."""
    accounts_of(world).rules.password = PasswordRule(
        int(world.figures["password.length"]), int(world.figures["password.kinds"])
    )


def people_change_passwords(world: World) -> None:
    """SR 1.7 RE 1: people's passwords are changed within their lifetime and no earlier one is used again."""
    rules, figures = accounts_of(world).rules, world.figures
    rules.lifetime = figures["password.lifetime"]
    rules.remembered = int(figures["password.remembered"])
    rules.least_age = min(figures["password.least_age"], ROTATE_AT * rules.lifetime)
    _live(world, rules.lifetime, program=False)


def programs_change_passwords(world: World) -> None:
    """SR 1.7 RE 2: passwords of programs and devices are changed within their lifetime as well, by themselves."""
    lifetime = world.figures["password.program_lifetime"]
    accounts_of(world).rules.program_lifetime = lifetime
    _live(world, lifetime, program=True)
    stream = world.stream("rotated passwords")

    def rotate(name: str) -> None:
        _renew(world, accounts_of(world).accounts[name], stream, world.loop.time())
        world.loop.wake(world.loop.time() + ROTATE_AT * lifetime, rotate, name)

    for name, account in accounts_of(world).accounts.items():
        if account.program:
            world.loop.wake(max(account.changed + ROTATE_AT * lifetime, 0.0), rotate, name)


def _live(world: World, lifetime: float, *, program: bool) -> None:
    """Take accounts through their past under the rules in force, up to the run's start."""
    stream, figures = world.stream(f"past of passwords:{program}"), world.figures
    leak = -figures["password.leaked"]
    handed = {person.took_over for person in people(world)}
    absent = {former.name for former in _former(world)} - handed
    for name, account in list(accounts_of(world).accounts.items()):
        if account.program is not program or not account.enabled or account.default:
            continue
        if name in absent:
            continue  # nobody is there to change it, and it expires
        world.leaked[name] = world.passwords[name]
        # What was before the last few changes is remembered by nobody.
        first = max(stream.random() * lifetime, accounts_of(world).rules.least_age)
        moment = max(account.changed, -PAST * lifetime) + first
        while moment <= 0:
            keep = not program and stream.random() < figures["password.same_again"]
            if not keep or not _set_password(world, name, world.passwords[name], moment):
                _renew(world, account, stream, moment)
            if moment <= leak:
                world.leaked[name] = world.passwords[name]
            moment += lifetime * ROTATE_AT


def _fresh(*, program: bool) -> Check:
    """Lifetimes work where no open account's password is older."""

    def check(world: World) -> dict[str, bool]:
        limit = world.figures["password.program_lifetime" if program else "password.lifetime"]
        found: dict[str, bool] = {}
        for name, store in world.account_stores.items():
            if name in world.site.assets:
                zone = world.site.assets[name].zone
                fresh = all(
                    world.loop.time() - account.changed <= limit or store.expired(account)
                    for account in store.accounts.values()
                    if account.enabled and account.program is program
                )
                found[zone] = found.get(zone, True) and fresh
        return found

    return check


def authenticator_feedback(world: World) -> None:
    """SR 1.10: a failed log-in at a terminal gets one answer, after the same time, whatever the reason."""
    for terminal in world.terminals.values():
        terminal.seams.feedback = lambda _reason: "log-in incorrect"
        terminal.seams.even = True


def use_notice(world: World) -> None:
    """SR 1.12: before a log-in stands a notice that use is recorded, and going on past it is itself put on record."""
    for hmi in world.hmis.values():
        hmi.seams.notice = NOTICE


def _locks_out(world: World) -> dict[str, bool]:
    """The rules of every store that people log in at still count failures."""
    return {
        world.site.assets[name].zone: store.rules.lockout_attempts is not None
        for name, store in world.account_stores.items()
        if name in world.site.assets
    }


CONTROLS: dict[str, Control] = {
    "SR 1.1": human_users,
    "SR 1.1 RE 1": unique_users,
    "SR 1.1 RE 2": code_from_untrusted,
    "SR 1.1 RE 3": code_everywhere,
    "SR 1.3": account_management,
    "SR 1.3 RE 1": unified_accounts,
    "SR 1.4": identifier_management,
    "SR 1.7": password_strength,
    "SR 1.7 RE 1": people_change_passwords,
    "SR 1.7 RE 2": programs_change_passwords,
    "SR 1.10": authenticator_feedback,
    "SR 1.12": use_notice,
    "SR 1.2": known_devices,
    "SR 1.2 RE 1": device_certificates,
    "SR 1.5": changed_credentials,
    "SR 1.5 RE 1": hardware_secrets,
    "SR 1.8": public_key_infrastructure,
    "SR 1.9": public_key_strength,
    "SR 1.9 RE 1": hardware_keys,
    "SR 1.6": wireless_access,
    "SR 1.6 RE 1": wireless_identities,
    "SR 1.11": lock_out,
    "SR 1.13": remote_access,
    "SR 1.13 RE 1": approved_remote_access,
}

#: What must be in force for a requirement to mean anything.
NEEDS: Needs = {
    "SR 1.1 RE 1": ("SR 1.1",),
    "SR 1.1 RE 2": ("SR 1.1",),
    "SR 1.1 RE 3": ("SR 1.1",),
    "SR 1.3": ("SR 1.1",),
    "SR 1.3 RE 1": ("SR 1.3",),
    "SR 1.4": ("SR 1.1",),
    "SR 1.5": ("SR 1.1",),
    "SR 1.5 RE 1": ("SR 1.5",),
    "SR 1.9": ("SR 1.8",),
    "SR 1.9 RE 1": ("SR 1.9",),
    "SR 1.7": ("SR 1.5",),
    "SR 1.7 RE 1": ("SR 1.7",),
    "SR 1.7 RE 2": ("SR 1.7",),
    "SR 1.10": ("SR 1.1",),
    "SR 1.6 RE 1": ("SR 1.6",),
    "SR 1.11": ("SR 1.1",),
    "SR 1.13 RE 1": ("SR 1.13",),
}

#: Whether a requirement that is in force does its work, zone by zone; one without a check does while it is on.
CHECKS: dict[str, Check] = {
    "SR 1.8": _lists_current,
    "SR 1.2": every_controller(lambda plc: not all(admit(STRANGER) for admit in plc.seams.admit)),
    "SR 1.2 RE 1": every_controller(
        lambda plc: plc.seams.tls is not None and not all(admit(STRANGER) for admit in plc.seams.admit)
    ),
    "SR 1.11": _locks_out,
    "SR 1.3": _nobodys,
    "SR 1.3 RE 1": _server_answers,
    "SR 1.6": _wireless_closed,
    "SR 1.6 RE 1": _former_out,
    "SR 1.7 RE 1": _fresh(program=False),
    "SR 1.7 RE 2": _fresh(program=True),
}
