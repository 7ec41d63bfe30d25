"""Motley's front door: one console command whose subcommands are imported only when chosen.

Each subcommand is a module with a function `run(arguments)`. Failures that declare an `exit_code`
end as one line on standard error; anything else is a bug and keeps its traceback.
"""

import importlib
import os
import sys
from importlib.metadata import PackageNotFoundError, version

SUBCOMMANDS = {
    "plan": ("planner.cli", "choose hardware: the cheapest fleet for a workload and a price list"),
    "serve": ("serving.cli", "answer OpenAI's API with one model, drafting on a second device"),
    "route": ("router.cli", "one OpenAI endpoint over many models and replicas"),
    "finetune": ("finetune.cli", "train a LoRA adapter over private data in several places"),
    "demo": ("planner.demo.cli", "all of the above on a model that ships with the code"),
}

EXTRAS = {"serving.cli": "serving", "finetune.cli": "finetune", "planner.demo.cli": "demo"}
"""Which optional dependencies a subcommand's module needs, for the message when one is missing."""


_OURS = frozenset({"planner", "serving", "router", "finetune"})


def main(arguments: list[str] | None = None) -> int:
    """Run `motley` and return the exit code.

    0 done, 1 failed, 2 bad input, 3 no plan exists, 4 no plan found in time, 130 interrupted.
    """
    words = sys.argv[1:] if arguments is None else arguments
    if not words or words[0] in ("-h", "--help"):
        print(_help())
        return 0
    if words[0] == "--version":
        print(f"motley {_version()}")
        return 0
    if words[0] not in SUBCOMMANDS:
        known = ", ".join(SUBCOMMANDS)
        return _fail(f"unknown subcommand {words[0]!r}; use one of: {known}", 2)
    return _run(words[0], words[1:])


def _run(subcommand: str, arguments: list[str]) -> int:
    module_name = SUBCOMMANDS[subcommand][0]
    try:
        importlib.import_module(module_name).run(arguments)
    except ModuleNotFoundError as error:
        extra = EXTRAS.get(module_name)
        if extra is None or (error.name or "").partition(".")[0] in _OURS:
            raise
        hint = f"install it with: pip install 'motley[{extra}]'"
        return _fail(f"{subcommand} needs the package {error.name!r}; {hint}", 2)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:
        # The reader of our output went away; a further write at exit must not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        exit_code = getattr(error, "exit_code", None)
        if exit_code is None:
            raise
        return _fail(_message(error), exit_code)
    return 0


def _message(error: Exception) -> str:
    # Click's usage errors format their text by a method of their own.
    format_message = getattr(error, "format_message", None)
    return " ".join(str(format_message() if format_message else error).split())


def _fail(message: str, exit_code: int) -> int:
    print(f"motley: error: {message}", file=sys.stderr)
    return exit_code


def _help() -> str:
    rows = "\n".join(f"  {name:<10} {text}" for name, (_, text) in SUBCOMMANDS.items())
    return (
        "usage: motley SUBCOMMAND ...\n\n"
        "Plans, serves and fine-tunes LLMs on mixed hardware.\n\n"
        f"subcommands (each has its own --help):\n{rows}\n\n"
        "options:\n  --version  print the version and exit"
    )


def _version() -> str:
    try:
        return version("motley")
    except PackageNotFoundError:
        return "unknown (not installed)"


if __name__ == "__main__":
    sys.exit(main())
