"""Whom a secret is told, and whom not (USERS.md §5.4)."""

from pathlib import Path

import pytest

from kedge.model.credential import Credential
from kedge.model.errors import KedgeError, NotFound, RegistryError, Unauthorized
from kedge.model.reference import Reference, parse_reference
from kedge.model.settings import RegistryHost
from kedge.registry.auth import Challenge, check_realm, may_know_secrets, read_challenges
from kedge.registry.fake import FakeRegistry, answer, bend, header, redirect
from kedge.registry.transport import origin_of
from tests.registry.conftest import QUICK, Connect, Memory

ME = Credential("me", "hunter2-secret")


def at(fake: FakeRegistry) -> Reference:
    return parse_reference(f"{fake.address}/some/image:latest")


def secrets_seen(*fakes: FakeRegistry) -> list[str]:
    return [one.authorization for fake in fakes for one in fake.seen if one.authorization]


# ---- the ways in -----------------------------------------------------------------------------------------------------


def test_nothing_is_sent_to_those_who_do_not_ask(fake: FakeRegistry, connect: Connect) -> None:
    fake.add_image("some/image")
    connect({fake.address: ME}).manifest(at(fake))
    assert secrets_seen(fake) == []


def test_basic_authorisation_is_sent_when_asked_for_and_then_at_once(connect: Connect) -> None:
    with FakeRegistry(users={"me": "hunter2-secret"}) as fake:
        fake.add_image("some/image")
        client = connect({fake.address: ME})
        client.manifest(at(fake))
        client.manifest(at(fake))
        assert [bool(one.authorization) for one in fake.seen] == [False, True, True]


def test_tokens_are_fetched_once_for_all_that_have_the_same_scope(connect: Connect) -> None:
    with FakeRegistry(users={"me": "hunter2-secret"}) as fake:
        fake.realm = fake.token_url
        target = fake.add_image("some/image")
        client = connect({fake.address: ME})
        for _ in range(3):
            client.manifest(at(fake), target)
        assert len(fake.requests(path="/token")) == 1
        assert "service=fake" in fake.requests(path="/token")[0].query
        assert "scope=repository%3Asome%2Fimage%3Apull" in fake.requests(path="/token")[0].query


def test_many_threads_fetch_one_token(connect: Connect) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with FakeRegistry() as fake:
        fake.realm = fake.token_url
        fake.add_image("some/image")
        client = connect()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: client.manifest(at(fake)), range(24)))
        assert len(fake.requests(path="/token")) == 1


def test_anonymous_tokens_need_no_credential(connect: Connect) -> None:
    with FakeRegistry() as fake:
        fake.realm = fake.token_url
        fake.add_image("some/image")
        connect().manifest(at(fake))
        assert fake.requests(path="/token")[0].authorization == ""


def test_an_identity_token_is_exchanged_by_post(connect: Connect) -> None:
    with FakeRegistry(users={"me": "hunter2-secret"}) as fake:
        fake.realm = fake.token_url
        fake.identity_tokens.add("identity-1")
        fake.add_image("some/image")
        connect({fake.address: Credential(identity_token="identity-1")}).manifest(at(fake))
        (asked,) = fake.requests(path="/token")
        assert asked.method == "POST"
        assert b"refresh_token=identity-1" in asked.body
        assert asked.authorization == ""


def test_a_token_server_that_only_takes_forms_gets_one(connect: Connect) -> None:
    with FakeRegistry(users={"me": "hunter2-secret"}) as fake:
        fake.realm, fake.token_methods = fake.token_url, {"POST"}
        fake.add_image("some/image")
        connect({fake.address: ME}).manifest(at(fake))
        assert [one.method for one in fake.requests(path="/token")] == ["GET", "POST"]


def test_a_refused_token_is_replaced(connect: Connect) -> None:
    with FakeRegistry() as fake:
        fake.realm = fake.token_url
        fake.add_image("some/image")
        client = connect()
        client.manifest(at(fake))
        fake._tokens.clear()
        client.manifest(at(fake))
        assert len(fake.requests(path="/token")) == 2


def test_a_registry_token_is_sent_as_it_is(connect: Connect) -> None:
    with FakeRegistry() as fake:
        fake.realm = fake.token_url
        fake._tokens["ready-made"] = frozenset({"repository:some/image:pull"})
        fake.add_image("some/image")
        connect({fake.address: Credential(registry_token="ready-made")}).manifest(at(fake))
        assert not fake.requests(path="/token")


def test_login_checks_a_credential(connect: Connect) -> None:
    with FakeRegistry(users={"me": "hunter2-secret"}) as fake:
        assert connect().login(fake.address, ME) == ME
        with pytest.raises(Unauthorized):
            connect().login(fake.address, Credential("me", "wrong"))
        fake.realm = fake.token_url
        assert connect().login(fake.address, ME) == ME
        fake.gives_identity_tokens = True
        kept = connect().login(fake.address, ME)
        assert kept.identity_token in fake.identity_tokens
        assert kept.password == ""
        with pytest.raises(Unauthorized, match="incorrect username or password"):
            connect().login(fake.address, Credential("me", "wrong"))


def test_pushing_asks_for_a_wider_scope_than_pulling(connect: Connect) -> None:
    import io

    with FakeRegistry() as fake:
        fake.realm = fake.token_url
        blob = fake.add_blob("other/image", b"data")
        client = connect()
        client.upload(at(fake), blob, lambda offset: io.BytesIO(b"data"), mount_from=[
            parse_reference(f"{fake.address}/other/image")
        ])  # fmt: skip
        queries = [one.query for one in fake.requests(path="/token")]
        assert "repository%3Aother%2Fimage%3Apull" in queries[-1]
        assert "repository%3Asome%2Fimage%3Apull%2Cpush" in queries[-1]


# ---- realms ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("realm", "registry"),
    [
        ("http://auth.example.com/token", "https://registry.example.com"),
        ("http://registry.example.com/token", "https://registry.example.com"),
        ("https://169.254.169.254/latest/meta-data", "https://registry.example.com"),
        ("http://169.254.169.254/latest/meta-data", "http://registry.example.com"),
        ("http://[fe80::1]/token", "http://registry.example.com"),
        ("http://[::ffff:169.254.169.254]/token", "http://registry.example.com"),
        ("http://2852039166/token", "http://registry.example.com"),
        ("http://0xa9fea9fe/token", "http://registry.example.com"),
        ("http://127.1/token", "http://registry.example.com"),
        ("http://localhost/token", "http://registry.example.com"),
        ("http://localhost:5000/token", "http://10.0.0.1:5000"),
        ("http://127.0.0.1:5000/token", "http://registry.example.com"),
        ("https://[::1]/token", "https://registry.example.com"),
        ("https://0.0.0.0/token", "https://registry.example.com"),
        ("http://169.254.169.254/token", "http://127.0.0.1:5000"),
        ("ftp://registry.example.com/token", "http://registry.example.com"),
        ("file:///etc/shadow", "https://registry.example.com"),
        ("https://user:word@registry.example.com/token", "https://registry.example.com"),
        ("https://registry.example.com\r\nX: y/token", "https://registry.example.com"),
        ("https:///token", "https://registry.example.com"),
        ("https://registry.example.com:99999/token", "https://registry.example.com"),
        ("/token", "https://registry.example.com"),
        ("", "https://registry.example.com"),
    ],
)
def test_a_realm_that_may_not_be_asked(realm: str, registry: str) -> None:
    with pytest.raises(RegistryError):
        check_realm(realm, origin_of(registry))


@pytest.mark.parametrize(
    ("realm", "registry"),
    [
        ("https://auth.docker.io/token", "https://registry-1.docker.io"),
        ("https://ghcr.io/token", "https://ghcr.io"),
        ("http://auth.example.com/token", "http://registry.example.com"),
        ("http://127.0.0.1:5001/token", "http://127.0.0.1:5000"),
        ("https://localhost:5001/token", "https://localhost:5000"),
        ("https://10.0.0.7/token", "https://registry.example.com"),
    ],
)
def test_a_realm_that_may_be_asked(realm: str, registry: str) -> None:
    assert check_realm(realm, origin_of(registry)) == origin_of(realm)


@pytest.mark.parametrize(
    ("server", "registry", "allowed"),
    [
        ("https://auth.docker.io", "https://registry-1.docker.io", True),
        ("https://gitlab.com", "https://registry.gitlab.com", True),
        ("https://ghcr.io", "https://ghcr.io", True),
        ("https://ghcr.io:444", "https://ghcr.io", True),
        ("https://evil.test", "https://registry.example.com", False),
        ("https://example.com.evil.test", "https://registry.example.com", False),
        ("https://evilexample.com", "https://registry.example.com", False),
        ("https://evil.com", "https://example.com", False),
        ("https://evil.co.uk", "https://registry.example.co.uk", False),
        ("https://10.0.0.2", "https://10.0.0.1", False),
        ("https://evil.io", "https://ghcr.io", False),
        ("https://auth.trusted.test", "https://registry.example.com", True),
        ("https://auth.example.co.uk", "https://registry.example.co.uk", True),
        ("https://evil.co.uk", "https://shop.co.uk", False),
        ("https://auth.shop.co.uk", "https://shop.co.uk", True),
        ("https://evil.azurecr.io", "https://mine.azurecr.io", False),
        ("https://mine.azurecr.io", "https://mine.azurecr.io", True),
        ("https://evil.dkr.ecr.us-east-1.amazonaws.com", "https://1234.dkr.ecr.us-east-1.amazonaws.com", False),
        ("https://auth.overrun.app", "https://registry.overrun.app", True),
        ("https://com", "https://example.com", False),
        ("https://dockerauth.cn-hangzhou.aliyuncs.com", "https://registry.cn-hangzhou.aliyuncs.com", True),
    ],
)
def test_who_belongs_to_a_registry(server: str, registry: str, allowed: bool) -> None:
    assert may_know_secrets(origin_of(server), origin_of(registry), ("auth.trusted.test",)) is allowed


def test_a_hijacked_realm_learns_no_secret(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token server of another site is asked as nobody; what it then refuses is explained."""
    import kedge.registry.auth as auth

    monkeypatch.setattr(auth, "may_know_secrets", lambda *_: False)  # everything here is on one host
    with FakeRegistry(users={"me": "hunter2-secret"}) as fake, FakeRegistry(users={"x": "y"}) as evil:
        fake.realm = evil.token_url
        fake.add_image("some/image")
        for credential in (ME, Credential(identity_token="identity-1")):
            with pytest.raises(Unauthorized) as caught:
                connect({fake.address: credential}).manifest(at(fake))
            assert "token-servers" in caught.value.hint
        assert secrets_seen(fake, evil) == []
        assert not any(one.body for one in evil.seen)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"token": 7}', b'{"token": "a b"}', b'{"token": "x\\r\\ny"}', b"<p>"]
)
def test_nonsense_from_a_token_server_is_a_clear_error(connect: Connect, body: bytes) -> None:
    with FakeRegistry() as fake:
        fake.realm = fake.token_url
        fake.on("GET", "/token", bend(body=body), -1)
        with pytest.raises(RegistryError, match="token server"):
            connect().manifest(at(fake))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Bearer",
        "Bearer realm=",
        "Negotiate",
        "Basic",
        'Bearer realm="' + "a" * 100_000,
        "=,=,=",
        'Bearer realm="\\"',
    ],
)
def test_nonsense_challenges_end_in_a_refusal(connect: Connect, text: str) -> None:
    with FakeRegistry(users={"me": "x"}) as fake:
        fake.on("", "/v2/", header("WWW-Authenticate", text), -1)
        with pytest.raises(KedgeError):
            connect().manifest(at(fake))


def test_challenges_are_read_as_the_standard_has_them() -> None:
    text = 'Basic realm="a, Bearer b=c", Bearer realm="https://x/token",service=y , scope="repository:a/b:pull,push"'
    assert read_challenges(text) == [
        Challenge("basic", (("realm", "a, Bearer b=c"),)),
        Challenge("bearer", (("realm", "https://x/token"), ("service", "y"), ("scope", "repository:a/b:pull,push"))),
    ]


# ---- redirects -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_another_port_drops_the_authorisation(connect: Connect, status: int) -> None:
    with FakeRegistry(users={"me": "hunter2-secret"}) as fake, FakeRegistry() as other:
        blob = fake.add_blob("some/image", b"data")
        other.add_blob("some/image", b"data")
        fake.on("GET", "/blobs/", answer(401, b"", WWW_Authenticate="Basic"), 1)
        fake.on(
            "GET", "/blobs/", redirect(f"{other.url}/v2/some/image/blobs/{blob.digest}?signature=s3cr3t", status), -1
        )
        sink = Memory(blob)
        connect({fake.address: ME, other.address: ME}).download(at(fake), blob, sink)
        assert sink.committed
        assert secrets_seen(other) == []
        assert secrets_seen(fake)


def test_a_redirect_target_that_asks_for_credentials_gets_none(connect: Connect) -> None:
    with FakeRegistry(users={"me": "hunter2-secret"}) as fake, FakeRegistry(users={"me": "hunter2-secret"}) as other:
        blob = fake.add_blob("some/image", b"data")
        fake.on("GET", "/blobs/", redirect(f"{other.url}/v2/some/image/blobs/{blob.digest}"), -1)
        with pytest.raises(Unauthorized):
            connect({fake.address: ME, other.address: ME}).download(at(fake), blob, Memory(blob))
        other.realm = other.token_url
        with pytest.raises(Unauthorized):
            connect({fake.address: ME, other.address: ME}).download(at(fake), blob, Memory(blob))
        assert secrets_seen(other) == []


def test_a_redirect_target_may_hand_out_anonymous_tokens(connect: Connect) -> None:
    """As lscr.io sends everyone to ghcr.io."""
    with FakeRegistry() as fake, FakeRegistry() as other:
        other.realm = other.token_url
        blob = other.add_blob("some/image", b"data")
        fake.on("GET", "/blobs/", redirect(f"{other.url}/v2/some/image/blobs/{blob.digest}"), -1)
        sink = Memory(blob)
        connect({fake.address: ME}).download(at(fake), blob, sink)
        assert sink.committed


@pytest.mark.parametrize("target", ["http://169.254.169.254/latest", "ftp://x/y", "http://a b/", "http://u:p@h/x"])
def test_a_redirect_inside_or_to_nonsense_is_refused(fake: FakeRegistry, connect: Connect, target: str) -> None:
    blob = fake.add_blob("some/image", b"data")
    fake.on("GET", "/blobs/", redirect(target), -1)
    with pytest.raises(RegistryError):
        connect().download(at(fake), blob, Memory(blob))


def test_a_redirect_from_https_to_http_is_refused(connect: Connect, certificates: Path) -> None:
    tls = (str(certificates / "server.pem"), str(certificates / "server.key"))
    with FakeRegistry(tls=tls) as fake, FakeRegistry() as plain:
        blob = fake.add_blob("some/image", b"data")
        fake.on("GET", "/blobs/", redirect(f"{plain.url}/v2/some/image/blobs/{blob.digest}"), -1)
        trusting = {fake.address: RegistryHost(ca=(str(certificates / "ca.pem"),))}
        with pytest.raises(RegistryError, match="not encrypted"):
            connect(hosts=trusting).download(at(fake), blob, Memory(blob))
        assert not plain.seen


def test_redirects_in_a_circle_end(fake: FakeRegistry, connect: Connect) -> None:
    blob = fake.add_blob("some/image", b"data")
    fake.on("GET", "/blobs/", redirect(f"/v2/some/image/blobs/{blob.digest}"), -1)
    with pytest.raises(RegistryError, match="circles"):
        connect().download(at(fake), blob, Memory(blob))


# ---- what is told to people ------------------------------------------------------------------------------------------


def test_no_error_holds_a_secret_even_if_the_registry_repeats_it(connect: Connect) -> None:
    with FakeRegistry(users={"me": "hunter2-secret"}) as fake:

        def echo(seen: object, reply: object) -> object:
            text = f"you sent {seen.authorization} which is me:hunter2-secret"  # type: ignore[attr-defined]
            return answer(400, text.encode())(seen, reply)  # type: ignore[arg-type]

        fake.on("GET", "/manifests/", lambda seen, reply: reply, 1)
        fake.on("GET", "/manifests/", echo, -1)  # type: ignore[arg-type]
        with pytest.raises(RegistryError) as caught:
            connect({fake.address: ME}).manifest(at(fake))
        assert "hunter2" not in caught.value.message + caught.value.hint
        assert "bWU6aHVudGVyMi1zZWNyZXQ" not in caught.value.message
        assert "***" in caught.value.message


def test_no_error_holds_the_signature_of_a_redirect(fake: FakeRegistry, connect: Connect) -> None:
    blob = fake.add_blob("some/image", b"data")
    with FakeRegistry() as other:
        gone = other.url
    fake.on("GET", "/blobs/", redirect(f"{gone}/blob?X-Signature=s3cr3t"), -1)
    with pytest.raises(RegistryError) as caught:
        connect().download(at(fake), blob, Memory(blob))
    assert "s3cr3t" not in str(caught.value)


def test_a_credential_shows_no_secret() -> None:
    assert "hunter2" not in repr(ME) + str(ME)


def test_a_refusal_says_what_to_do(connect: Connect) -> None:
    with FakeRegistry(users={"me": "hunter2-secret"}) as fake:
        with pytest.raises(Unauthorized) as caught:
            connect().manifest(at(fake))
        assert "kedge login" in caught.value.hint
        with pytest.raises(Unauthorized) as caught:
            connect({fake.address: Credential("me", "wrong")}).manifest(at(fake))
        assert "Your credentials" in caught.value.hint
        assert len(fake.seen) == 3


# ---- TLS and where to go ---------------------------------------------------------------------------------------------


def test_tls_with_a_private_authority(connect: Connect, certificates: Path) -> None:
    tls = (str(certificates / "server.pem"), str(certificates / "server.key"))
    with FakeRegistry(tls=tls) as fake:
        target = fake.add_image("some/image")
        with pytest.raises(RegistryError, match="cannot be trusted") as caught:
            connect().manifest(at(fake))
        assert "ca = " in caught.value.hint
        for trusting in (RegistryHost(ca=(str(certificates / "ca.pem"),)), RegistryHost(insecure=True)):
            assert connect(hosts={fake.address: trusting}).manifest(at(fake)).descriptor == target
        with pytest.raises(RegistryError, match="certificate file"):
            connect(hosts={fake.address: RegistryHost(ca=("/nonexistent.pem",))}).manifest(at(fake))


def test_plain_http_is_never_a_fallback_of_https(fake: FakeRegistry, connect: Connect) -> None:
    with pytest.raises(RegistryError, match="https") as caught:
        connect(hosts={fake.address: RegistryHost(http=False)}).manifest(at(fake))
    assert "http = true" in caught.value.hint
    assert not fake.seen


def test_nobody_there_is_a_clear_error(connect: Connect) -> None:
    with FakeRegistry() as gone:
        reference = at(gone)
    with pytest.raises(RegistryError, match="refused"):
        connect().manifest(reference)
    with pytest.raises(RegistryError, match="cannot be resolved"):
        connect(network=QUICK).manifest(parse_reference("registry.invalid/a/b"))


# ---- mirrors ---------------------------------------------------------------------------------------------------------


def test_mirrors_are_tried_in_order_and_then_the_registry(fake: FakeRegistry, connect: Connect) -> None:
    with FakeRegistry() as gone:
        dead = gone.address
    with FakeRegistry() as first, FakeRegistry() as second:
        target = fake.add_image("some/image")
        second.add_image("cache/some/image")
        mirrors = (dead, first.address, f"http://{second.address}/cache/")
        client = connect(hosts={fake.address: RegistryHost(mirrors=mirrors)})
        assert client.manifest(at(fake)).descriptor == target
        assert first.seen
        assert second.seen[-1].query == f"ns={fake.address}"
        assert not fake.requests("GET")
        second.repositories.clear()
        assert client.manifest(at(fake)).descriptor == target
        assert fake.requests("GET", "/manifests/")


def test_who_cannot_reach_the_registry_is_told_what_its_mirror_said(fake: FakeRegistry, connect: Connect) -> None:
    client = connect(hosts={"registry.invalid": RegistryHost(mirrors=(fake.address,))}, network=QUICK)
    with pytest.raises(RegistryError) as caught:
        client.manifest(parse_reference("registry.invalid/some/image:9"))
    assert "cannot reach registry.invalid" in caught.value.message
    assert f"(before that, the mirror {fake.address}: " in caught.value.message
    assert "is not in the registry" in caught.value.message


def test_a_mirror_with_wrong_bytes_is_passed_over(fake: FakeRegistry, connect: Connect) -> None:
    with FakeRegistry() as mirror:
        blob = fake.add_blob("some/image", b"right")
        mirror.add_blob("some/image", b"wrong")
        mirror.repository("some/image").blobs[blob.digest] = b"wrong"
        sink = Memory(blob)
        connect(hosts={fake.address: RegistryHost(mirrors=(mirror.address,))}).download(at(fake), blob, sink)
        assert bytes(sink.data) == b"right"


def test_a_download_continues_at_the_next_server(fake: FakeRegistry, connect: Connect) -> None:
    with FakeRegistry() as mirror:
        data = bytes(2_000_000)
        blob = fake.add_blob("some/image", data)
        mirror.add_blob("some/image", data)
        mirror.on("GET", "/blobs/", bend(drip=(500_000, 0.05), cut_at=1_000_000), 1)
        mirror.on("GET", "/blobs/", answer(404), -1)
        sink = Memory(blob)
        connect(hosts={fake.address: RegistryHost(mirrors=(mirror.address,))}).download(at(fake), blob, sink)
        assert bytes(sink.data) == data
        assert "range" in fake.requests("GET", "/blobs/")[0].headers


def test_a_mirror_never_learns_the_registrys_credential(connect: Connect) -> None:
    with FakeRegistry(users={"me": "hunter2-secret"}) as fake, FakeRegistry(users={"me": "hunter2-secret"}) as mirror:
        target = fake.add_image("some/image")
        mirror.add_image("some/image")
        client = connect({fake.address: ME}, {fake.address: RegistryHost(mirrors=(mirror.address,))})
        assert client.manifest(at(fake)).descriptor == target
        assert secrets_seen(mirror) == []


def test_pushes_go_to_the_registry_itself(fake: FakeRegistry, connect: Connect) -> None:
    import io

    with FakeRegistry() as mirror:
        blob = mirror.add_blob("some/image", b"data")
        client = connect(hosts={fake.address: RegistryHost(mirrors=(mirror.address,))})
        assert client.upload(at(fake), blob, lambda offset: io.BytesIO(b"data"))
        assert not mirror.seen


def test_when_no_server_has_it_the_registrys_own_word_counts(fake: FakeRegistry, connect: Connect) -> None:
    with FakeRegistry() as mirror:
        mirror.on("", "", answer(500), -1)
        client = connect(hosts={fake.address: RegistryHost(mirrors=(mirror.address,))})
        with pytest.raises(NotFound, match="is not in the registry"):
            client.manifest(at(fake))


@pytest.mark.parametrize("text", ["", "ftp://x", "http://", "a b", "host/p?q", "user:pw@host"])
def test_a_mirror_that_is_no_address_is_named(fake: FakeRegistry, connect: Connect, text: str) -> None:
    from kedge.model.errors import InvalidInput

    with pytest.raises(InvalidInput, match="mirror"):
        connect(hosts={fake.address: RegistryHost(mirrors=(text,))}).manifest(at(fake))
