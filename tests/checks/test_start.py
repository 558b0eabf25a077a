"""Whether a process can start: what a runtime, the kernel and a loader would say."""

import os
from pathlib import Path

import pytest

from kedge.model.platform import Platform
from tests.checks.conftest import MAIN, Compile, Root, libraries_of_host


@pytest.fixture
def shell(root: Root, compiled: Compile) -> Root:
    """A tree with a static program as /bin/sh and /usr/bin/env."""
    static = compiled(MAIN, "-static")
    root.copy(static, "/bin/sh")
    root.copy(static, "/usr/bin/env")
    root.copy(static, "/usr/bin/python3")
    return root


# ---- programs --------------------------------------------------------------------------------------------------------


def test_a_dynamic_program_alone_lacks_its_loader_and_libraries(root: Root, compiled: Compile) -> None:
    root.copy(compiled(MAIN), "/app")
    fault = root.fault("/app")
    assert fault is not None
    assert fault.files[0].startswith("/lib")
    assert [one.name for one in fault.libraries] == ["libc.so.6"]
    assert fault.reason.startswith(f"/app needs the loader {fault.files[0]} and the library libc.so.6")


def test_with_what_ldd_lists_it_starts(root: Root, compiled: Compile) -> None:
    program = compiled(MAIN, "-Wl,--no-as-needed", "-lm")
    root.copy(program, "/app")
    for path in libraries_of_host(program):
        root.copy(path, path)
    assert root.fault("/app") is None


def test_a_library_of_a_library_is_named_with_who_needs_it(root: Root) -> None:
    program = Path("/usr/bin/python3").resolve()
    root.copy(program, "/app")
    needed = libraries_of_host(program)
    for path in needed:
        if "libc.so" not in path:
            root.copy(path, path)
    fault = root.fault("/app")
    assert fault is not None
    assert [one.name for one in fault.libraries] == ["libc.so.6"]


def test_a_static_program_starts(root: Root, compiled: Compile) -> None:
    root.copy(compiled(MAIN, "-static"), "/app")
    assert root.fault("/app") is None
    root.copy(compiled(MAIN, "-static-pie"), "/pie")
    assert root.fault("/pie") is None


def test_a_program_for_another_machine_does_not(root: Root, compiled: Compile) -> None:
    root.copy(compiled(MAIN, "-static"), "/app")
    other = Platform("linux", "s390x")
    assert "the image is for linux/s390x" in root.reason("/app", platform=other)


def test_a_file_that_is_no_program_does_not(root: Root) -> None:
    root.write("/app", "hello\n")
    root.write("/empty", "")
    root.write("/module.wasm", b"\0asm\1\0\0\0")
    assert root.reason("/app") == "/app is neither an ELF program nor a script that starts with #!"
    assert root.reason("/empty") == "/empty is empty"
    assert root.reason("/module.wasm") == ""


# ---- lookup ----------------------------------------------------------------------------------------------------------


def test_what_is_not_there_is_named(root: Root) -> None:
    assert root.reason("/app") == "/app is not in the final image"
    assert root.reason("./app", working_dir="/srv") == "./app (in /srv) is not in the final image"
    assert "no directory of PATH (/bin:/opt) has it" in root.reason("app", env=("PATH=/bin:/opt",))


def test_names_are_looked_up_by_path_and_workdir(shell: Root) -> None:
    assert shell.reason("sh", env=("PATH=/nowhere:/bin",)) == ""
    assert shell.reason("sh") == ""
    assert shell.reason("bin/sh") == ""
    assert shell.reason("./sh", working_dir="/bin") == ""
    assert shell.reason("sh", env=("PATH=/nowhere",)) != ""


def test_links_are_followed_inside_the_root_only(shell: Root) -> None:
    shell.link("/usr/bin/app", "/bin/sh")
    shell.link("/out", "../../../../../../bin/true")
    assert shell.reason("app") == ""
    assert shell.reason("/out") == "/out is not in the final image"


def test_the_entrypoint_s_first_word_counts(shell: Root) -> None:
    fault = shell.fault("/not-there", entrypoint=("/bin/sh", "-x"))
    assert fault is None
    fault = shell.fault("sh", entrypoint=("/gone",))
    assert fault is not None
    assert fault.anchor == "ENTRYPOINT"


def test_nothing_to_start_is_no_fault(root: Root) -> None:
    assert root.fault() is None
    assert root.fault("/app", platform=Platform("windows", "amd64")) is None


def test_a_volume_may_bring_it(root: Root) -> None:
    assert root.fault("/data/app", volumes=("/data",)) is None


def test_wrappers_are_looked_through(shell: Root) -> None:
    shell.copy(shell.path / "bin/sh", "/sbin/tini")
    assert shell.reason("/sbin/tini", "--", "sh") == ""
    assert "no directory of PATH" in shell.reason("/sbin/tini", "--", "nope")
    assert "no directory of PATH" in shell.reason("/usr/bin/env", "A=b", "nope")


def test_plain_commands_of_the_shell_form_are_looked_up(shell: Root) -> None:
    def of(text: str) -> str:
        return shell.reason("/bin/sh", "-c", text)

    assert of("exec python3 app.py") == ""
    assert "/srv/app is not in the final image" in of("/srv/app --port 80")
    assert "no directory of PATH" in of("node server.js && true")
    for text in ("cd /x && ./run", "node || true", "node; true", "$APP", "A=b node", 'echo "hi"', "f() { :; }"):
        assert of(text) == "", text


def test_a_missing_shell_is_told(root: Root) -> None:
    assert root.reason("/bin/sh", "-c", "true") == "/bin/sh is not in the final image"


def test_a_shell_form_without_a_shell_has_a_remedy(root: Root) -> None:
    fault = root.fault("/bin/sh", "-c", "/app --flag")
    assert fault is not None
    assert fault.hint.startswith("Write the exec form")


def test_arguments_inside_a_word_are_told(shell: Root) -> None:
    fault = shell.fault("/bin/sh -x")
    assert fault is not None
    assert fault.hint == 'Write each argument as a word of its own: ["/bin/sh", "-x"]'


def test_a_list_in_single_quotes_is_told(shell: Root) -> None:
    assert "no JSON list" in shell.reason("/bin/sh", "-c", "['/bin/sh', '-x']")
    assert shell.reason("/bin/sh", "-c", "[ -f /x ] && true") == ""


# ---- scripts ---------------------------------------------------------------------------------------------------------


def test_a_script_needs_its_interpreter(shell: Root) -> None:
    shell.write("/run", "#!/bin/bash\necho\n")
    assert shell.reason("/run") == "the interpreter /bin/bash of the script /run is not in the final image"
    shell.write("/run", "#! /bin/sh -e\necho\n")
    assert shell.reason("/run") == ""


def test_an_interpreter_s_libraries_count(root: Root, compiled: Compile) -> None:
    root.copy(compiled(MAIN), "/bin/lua")
    root.write("/run", "#!/bin/lua\n")
    assert "/bin/lua needs the loader" in root.reason("/run")


def test_env_finds_by_path(shell: Root) -> None:
    shell.write("/run", "#!/usr/bin/env python3\n")
    assert shell.reason("/run") == ""
    shell.write("/run", "#!/usr/bin/env -S python3 -u\n")
    assert shell.reason("/run") == ""
    shell.write("/run", "#!/usr/bin/env node\n")
    assert shell.reason("/run") == "the interpreter node of the script /run is not in the final image (by PATH)"
    shell.write("/run", "#!/usr/bin/env python3 -u\n")
    fault = shell.fault("/run")
    assert fault is not None
    assert fault.hint == "Write #!/usr/bin/env -S python3 -u"


def test_windows_line_ends_are_told(shell: Root) -> None:
    shell.write("/run", "#!/bin/sh\r\necho\r\n")
    assert "CR LF" in shell.reason("/run")
    shell.write("/run", "#!/usr/bin/env python3\r\n")
    assert "CR LF" in shell.reason("/run")


def test_scripts_interpreted_by_scripts_end_somewhere(shell: Root) -> None:
    shell.write("/a", "#!/b\n")
    shell.write("/b", "#!/bin/sh\n")
    assert shell.reason("/a") == ""
    shell.write("/b", "#!/a\n")
    assert "interpreters" in shell.reason("/a")


def test_what_an_entrypoint_script_passes_on_is_loaded_too(shell: Root, compiled: Compile) -> None:
    shell.write("/entry.sh", '#!/bin/sh\nset -e\nexec "$@"\n')
    shell.copy(compiled(MAIN), "/usr/bin/server")
    fault = shell.fault("server", entrypoint=("/entry.sh",))
    assert fault is not None
    assert (fault.anchor, fault.program) == ("CMD", "server")
    assert shell.fault("start-word", entrypoint=("/entry.sh",)) is None


# ---- users -----------------------------------------------------------------------------------------------------------


def test_a_file_without_execute_permission_is_told(shell: Root) -> None:
    shell.write("/run", "#!/bin/sh\n", mode=0o644)
    fault = shell.fault("/run")
    assert fault is not None
    assert fault.reason == "/run has no execute permission"
    assert "--chmod=755" in fault.hint


def test_permissions_are_those_of_the_user(shell: Root) -> None:
    if os.geteuid():
        pytest.skip("only root can give files to others")
    shell.write("/etc/passwd", "bob:x:1234:1234::/:/bin/sh\n", mode=0o644)
    shell.write("/run", "#!/bin/sh\n", mode=0o700)
    os.chown(shell.path / "run", 1234, 0)
    assert shell.reason("/run", user="bob") == ""
    assert shell.reason("/run", user="1000") == "the user 1000 may not execute /run"
    shell.write("/private/run", "#!/bin/sh\n")
    (shell.path / "private").chmod(0o700)
    assert shell.reason("/private/run", user="bob") == "the user bob may not enter /private"
    assert shell.reason("/private/run") == ""


def test_a_user_that_the_image_does_not_know_is_told(shell: Root) -> None:
    fault = shell.fault("/bin/sh", user="nobody-here")
    assert fault is not None
    assert fault.anchor == "USER"


def test_a_pipe_or_device_is_not_opened(root: Root) -> None:
    os.mkfifo(root.path / "app", 0o755)
    assert root.reason("/app") == "/app is no file"
