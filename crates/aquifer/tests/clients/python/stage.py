"""What every script here has from the test that runs it: the server's URL, its tokens, and answers to what it asks."""

import os
import re
import sys

TOKEN = os.environ["AQUIFER_TOKEN"]


def database(name="shop"):
    """The URL of a database, with a slash at its end; another one for each name."""
    return f"{os.environ['AQUIFER_URL']}/db/{name}/"


def ask(what):
    """Asks the test to do something with the server or its network, and waits until it is done."""
    print(what, flush=True)
    answer = sys.stdin.readline().rstrip("\n")
    assert answer == "done", f"the test did not {what}: {answer}"


def restart():
    """The server is killed, and another one is started on an empty disk."""
    ask("restart")


def fails(work, what):
    """Checks that this fails with an error in which that is."""
    try:
        work()
    except Exception as error:  # noqa: BLE001: each client has errors of its own
        assert re.search(what, str(error), re.IGNORECASE | re.DOTALL), f"{what} is not in: {error!r}"
    else:
        raise AssertionError(f"it did not fail with: {what}")


def run(scenarios, name, *args):
    """Runs the scenario that the command line names."""
    scenarios[name](*args)
    # Clients may hold threads that would keep the process alive.
    sys.stdout.flush()
    os._exit(0)
