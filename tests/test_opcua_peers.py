"""Our OPC UA server and client against implementations without our changes, on loopback and in real time.

asyncua's own client and server share the codec with ours; node-opcua shares nothing. It runs where the environment
variable OTLAB_NODE_MODULES names a ``node_modules`` folder that has ``node-opcua-client`` (2.x) in it.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import socket
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from asyncua import ua as _ua
from asyncua.client.client import Client
from asyncua.crypto.security_policies import SecurityPolicyBasic256Sha256
from asyncua.crypto.uacrypto import CertProperties
from asyncua.server.server import Server

from devices.opcua import PlantServer, UaAlarm, UaClient, UaRefusal, UaTag, UaUser, make_certificate
from testbed.network import Host
from testbed.randomness import Randomness

ua: Any = _ua  # whose names a type checker does not find

pytestmark = pytest.mark.realtime

ENCRYPT = "Basic256Sha256_SignAndEncrypt"
TAGS = (
    UaTag("LIT101", "plc1", "float", "mm", False, 0.0, 1200.0, "tank", {"H": 800.0}),
    UaTag("LIT101_SP", "plc1", "float", "mm", True, 300.0, 1100.0, "level to keep"),
    UaTag("P101", "plc1", "bool"),
    UaTag("N101", "plc2", "int"),
)
MODULES = os.environ.get("OTLAB_NODE_MODULES", "")
NODE = shutil.which("node")


class Loopback:
    """What a server needs of a host, on this machine."""

    name, address = "opcua1", "127.0.0.1"

    def __init__(self) -> None:
        self.network = SimpleNamespace(loop=asyncio.get_running_loop(), randomness=Randomness(0))

    def spawn(self, coroutine: Coroutine[Any, Any, Any], name: str = "") -> asyncio.Task[Any]:
        return asyncio.get_running_loop().create_task(coroutine, name=name)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def serving(**seams: Any) -> AsyncIterator[tuple[PlantServer, str, list[tuple[str, float]]]]:
    writes: list[tuple[str, float]] = []

    async def write(tag: UaTag, value: float) -> bool:
        writes.append((tag.name, value))
        server.update(tag.name, value)
        return True

    def log_in(user: str | None, password: str | None, _certificate: bytes | None) -> UaUser | None:
        known = user is None or password == "geheim"
        return UaUser(user or "anonymous", "operator") if known else None

    port = free_port()
    options = {"security": ("None", ENCRYPT), "authenticate": log_in, **seams}
    server = PlantServer(cast(Host, Loopback()), TAGS, write, port=port, **options)
    await server.start()
    server.update("LIT101", 500.0)
    server.update("N101", 7)
    try:
        yield server, f"opc.tcp://127.0.0.1:{port}", writes
    finally:
        await server.stop()


def certificate_of(name: str) -> tuple[bytes, bytes]:
    return make_certificate(name, f"urn:{name}", random.Random(name))


# -- asyncua, as it comes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("secured", [False, True])
async def test_asyncua_s_client_uses_the_whole_server(secured: bool) -> None:
    told: list[Any] = []
    events: list[Any] = []

    class Handler:
        def datachange_notification(self, node: Any, value: Any, data: Any) -> None:
            told.append(value)

        def event_notification(self, event: Any) -> None:
            events.append(event)

    async with serving() as (server, url, writes):
        client = Client(url, timeout=5)
        client.set_user("operator")
        client.set_password("geheim")
        if secured:
            certificate, key = certificate_of("client")
            client.application_uri = "urn:client"
            await client.set_security(
                SecurityPolicyBasic256Sha256, CertProperties(certificate, "der"), CertProperties(key, "der")
            )
        async with client:
            level = client.get_node("ns=2;s=LIT101")
            data = await level.read_data_value()
            assert data.Value is not None
            assert data.Value.Value == 500.0
            assert data.SourceTimestamp is not None
            assert abs(datetime.now(UTC) - data.SourceTimestamp) < timedelta(seconds=5)
            subscription = await client.create_subscription(100, Handler())
            await subscription.subscribe_data_change(level)
            await subscription.subscribe_alarms_and_conditions(evtypes=ua.ObjectIds.ExclusiveLevelAlarmType)
            server.update("LIT101", 900.0)
            setpoint = client.get_node("ns=2;s=LIT101_SP")
            await setpoint.write_value(700.0)
            with pytest.raises(ua.uaerrors.BadNotWritable):
                await level.write_value(1.0)
            history = await level.read_raw_history(datetime.now(UTC) - timedelta(minutes=1))
            path = await (
                await client.nodes.objects.get_child("2:Plant/2:plc1/2:LIT101/0:EngineeringUnits")
            ).read_value()
            async with asyncio.timeout(5):
                while len(told) < 2 or not events:  # noqa: ASYNC110 - the peer has no event to wait for
                    await asyncio.sleep(0.02)
    assert writes == [("LIT101_SP", 700.0)]
    assert told == [500.0, 900.0]
    assert (events[0].SourceName, events[0].Severity, events[0].Message.Text) == (
        "LIT101",
        500,
        "LIT101 H: 900 mm",
    )
    assert getattr(events[0], "ActiveState/Id") is True
    assert [data.Value.Value for data in history if data.Value is not None] == [500.0, 900.0]
    assert path.DisplayName.Text == "mm"


async def test_our_client_uses_asyncua_s_server() -> None:
    server = Server()
    await server.init()
    url = f"opc.tcp://127.0.0.1:{free_port()}"
    server.set_endpoint(url)
    server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
    await server.register_namespace("urn:something")
    folder = await server.nodes.objects.add_folder(ua.NodeId("works", 2), "2:Works")
    pump = await folder.add_variable(ua.NodeId("Pump.Speed", 2), "2:Pump.Speed", 1.5)
    await pump.set_writable()
    fixed = await folder.add_variable(ua.NodeId("Fixed", 2), "2:Fixed", 3)
    alarms = await server.get_event_generator(ua.ObjectIds.ExclusiveLevelAlarmType)
    got: list[tuple[str, float, bool, float]] = []
    raised: list[UaAlarm] = []
    await server.start()
    await server.historize_node_data_change(fixed, timedelta(days=1), 100)
    try:
        client = UaClient(url)
        assert await client.connect() is None
        assert await client.browse() == {"Works": {"Pump.Speed": {}, "Fixed": {}}}
        value = await client.read("Pump.Speed")
        assert (value.value, value.good) == (1.5, True)
        assert await client.subscribe(["Pump.Speed"], 0.1, lambda *told: got.append(told)) == {}
        await client.subscribe_alarms(raised.append, period=0.1)
        assert await client.write("Pump.Speed", 2) is None
        assert await client.write("Fixed", 4) == UaRefusal("BadUserAccessDenied")
        alarms.event.add_variable(
            "LimitState/CurrentState", ua.LocalizedText("High"), ua.VariantType.LocalizedText
        )
        setattr(alarms.event, "ActiveState/Id", True)
        alarms.event.SourceName = "Pump"
        await alarms.trigger(message="too fast")
        async with asyncio.timeout(5):
            while len(got) < 2 or not raised:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        await fixed.write_value(5)
        await asyncio.sleep(0.2)  # its storage takes values by a subscription
        history = await client.history("Fixed")
        await client.disconnect()
        assert not client.connected
    finally:
        await server.stop()
    assert [value for _, value, _, _ in got] == [1.5, 2.0]
    assert [entry.value for entry in history] == [3, 5]
    assert (raised[0].source, raised[0].limit, raised[0].active, raised[0].message) == (
        "Pump",
        "H",
        True,
        "too fast",
    )


async def test_our_client_notices_that_a_real_server_is_gone() -> None:
    async with serving() as (_, url, _):
        client = UaClient(url)
        await client.connect()
    async with asyncio.timeout(5):
        await client.lost()
    with pytest.raises(ConnectionError):
        await client.read("LIT101")


# -- node-opcua --------------------------------------------------------------------------------------------------

SCRIPT = r"""
const { OPCUAClient, MessageSecurityMode, SecurityPolicy, UserTokenType, AttributeIds, DataType, TimestampsToReturn,
        ClientSubscription, ClientMonitoredItem, constructEventFilter, StatusCodes, makeBrowsePath } =
    require("node-opcua-client");
const [url, secured, password, folder] = process.argv.slice(1);
(async () => {
    const options = { endpointMustExist: false, connectionStrategy: { maxRetry: 0 }, applicationName: "peer" };
    if (secured === "1") {
        options.securityMode = MessageSecurityMode.SignAndEncrypt;
        options.securityPolicy = SecurityPolicy.Basic256Sha256;
        const { OPCUACertificateManager } = require("node-opcua-certificate-manager");
        options.clientCertificateManager = new OPCUACertificateManager(
            { rootFolder: folder, automaticallyAcceptUnknownCertificate: true });
    }
    const client = OPCUAClient.create(options);
    const out = {};
    await client.connect(url);
    let session;
    try {
        session = await client.createSession({ type: UserTokenType.UserName, userName: "operator", password });
    } catch (refusal) {
        await client.disconnect();
        console.log(JSON.stringify({ refused: String(refusal.message) }));
        return;
    }
    const read = await session.read([
        { nodeId: "ns=2;s=LIT101", attributeId: AttributeIds.Value },
        { nodeId: "ns=2;s=N101", attributeId: AttributeIds.Value },
        { nodeId: "ns=2;s=P101", attributeId: AttributeIds.Value },
    ]);
    out.read = read.map((value) => [value.value.value, value.statusCode.name]);
    const write = (name, value) => session.write({ nodeId: "ns=2;s=" + name, attributeId: AttributeIds.Value,
        value: { value: { dataType: DataType.Double, value } } });
    out.write = [(await write("LIT101_SP", 700)).name, (await write("LIT101", 1)).name];
    const plant = await session.browse("ns=2;s=plant");
    out.browse = plant.references.map((reference) => reference.browseName.name);
    const path = await session.translateBrowsePath(makeBrowsePath("ns=2;s=LIT101", ".EngineeringUnits"));
    const unit = await session.read({ nodeId: path.targets[0].targetId, attributeId: AttributeIds.Value });
    out.unit = unit.value.value.displayName.text;
    const [start, end] = [new Date(Date.now() - 60000), new Date(Date.now() + 1000)];
    const history = await session.readHistoryValue("ns=2;s=LIT101", start, end);
    out.history = history.historyData.dataValues.map((value) => value.value.value);
    const subscription = ClientSubscription.create(session, {
        requestedPublishingInterval: 100, requestedLifetimeCount: 100, requestedMaxKeepAliveCount: 10,
        maxNotificationsPerPublish: 10, publishingEnabled: true, priority: 1 });
    const seen = [];
    const data = ClientMonitoredItem.create(subscription, { nodeId: "ns=2;s=LIT101", attributeId: AttributeIds.Value },
        { samplingInterval: 100, queueSize: 5 }, TimestampsToReturn.Both);
    data.on("changed", (value) => seen.push(value.value.value));
    const events = [];
    const filter = constructEventFilter(["SourceName", "Message", "Severity", "ActiveState.Id"]);
    const item = ClientMonitoredItem.create(subscription, { nodeId: "i=2253", attributeId: AttributeIds.EventNotifier },
        { queueSize: 100, filter }, TimestampsToReturn.Both);
    const plain = (field) => field.value && field.value.text ? field.value.text : field.value;
    item.on("changed", (fields) => events.push(fields.map(plain)));
    await new Promise((resolve) => item.on("initialized", resolve));
    await write("LIT101_SP", 701);   // the test's signal to change the level
    for (let i = 0; i < 100 && (seen.length < 2 || events.length < 1); i++) await new Promise((r) => setTimeout(r, 50));
    out.seen = seen; out.events = events;
    await subscription.terminate(); await session.close(); await client.disconnect();
    console.log(JSON.stringify(out));
})().catch((error) => { console.error(error); process.exit(1); });
"""


async def node(url: str, secured: bool, password: str, folder: Path) -> Any:
    process = await asyncio.create_subprocess_exec(
        cast(str, NODE),
        "-e",
        SCRIPT,
        url,
        "1" if secured else "0",
        password,
        str(folder),
        env={**os.environ, "NODE_PATH": MODULES, "HOME": str(folder)},
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return json.loads(next(line for line in output.decode().splitlines() if line.startswith("{")))


@pytest.mark.skipif(
    NODE is None or not (Path(MODULES) / "node-opcua-client").is_dir() or not MODULES,
    reason="OTLAB_NODE_MODULES names no folder with node-opcua-client",
)
@pytest.mark.parametrize("secured", [False, True])
async def test_node_opcua_uses_the_whole_server(secured: bool, tmp_path: Path) -> None:
    async with serving() as (server, url, writes):

        async def signalled() -> None:
            while ("LIT101_SP", 701.0) not in writes:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            await asyncio.sleep(0.3)
            server.update("LIT101", 900.0)

        signal = asyncio.create_task(signalled())
        out = await node(url, secured, "geheim", tmp_path)
        refused = await node(url, secured, "wrong", tmp_path)
        await signal
    assert out["read"][0] == [500, "Good"]
    assert out["read"][1][1] == "Good"
    assert out["read"][2][1] == "BadWaitingForInitialData"
    assert out["write"] == ["Good", "BadNotWritable"]
    assert out["browse"] == ["plc1", "plc2"]
    assert out["unit"] == "mm"
    assert out["history"] == [500]
    assert out["seen"] == [500, 900]
    assert out["events"] == [["LIT101", "LIT101 H: 900 mm", 500, True]]
    assert "BadUserAccessDenied" in refused["refused"]
