"""Scripts that complete the command line in bash, zsh and fish; made from the table of commands and flags.

They are static: a shell that started Python for every key would be slower than typing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from fastrouter.arguments import COMMANDS, SHELLS, Flag, flags

_BASH: Final = """\
# bash completion for fastrouter: source <(fastrouter completion bash)
_fastrouter() {{
    local IFS=$' \\t\\n'
    local current=${{COMP_WORDS[COMP_CWORD]}} flag=${{COMP_WORDS[COMP_CWORD-1]}} command= word i
    # Bash cuts --flag=value at the equals sign.
    if [[ $current == '=' ]]; then
        current=
    elif [[ $flag == '=' ]]; then
        flag=${{COMP_WORDS[COMP_CWORD-2]}}
    fi
    COMPREPLY=()
    case $flag in
{values}
    esac
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${{COMP_WORDS[i]}}
        case $word in
            {switches}) ;;
            -*) if [[ ${{COMP_WORDS[i+1]}} == '=' ]]; then ((i += 2)); else ((i++)); fi ;;
            {commands}) command=$word; break ;;
        esac
    done
    if [[ $current == -* ]]; then
        case $command in
{flags}
        esac
    elif [[ -z $command ]]; then
        COMPREPLY=($(compgen -W '{command_words}' -- "$current"))
    elif [[ $command == completion ]]; then
        COMPREPLY=($(compgen -W '{shells}' -- "$current"))
    fi
}}
complete -F _fastrouter fastrouter
"""

_ZSH: Final = """\
#compdef fastrouter
# zsh completion for fastrouter: source <(fastrouter completion zsh), or a file _fastrouter in $fpath
_fastrouter() {{
    local -a commands=(
{commands}
    )
    local curcontext=$curcontext state line
    typeset -A opt_args
    local -a flags=(
{flags}
    )
    _arguments -C $flags '1: :->command' '*:: :->rest'
    case $state in
        command) _describe command commands ;;
        rest)
            case $line[1] in
{rest}
            esac ;;
    esac
}}
if [[ $funcstack[1] == _fastrouter ]]; then
    _fastrouter "$@"
else
    compdef _fastrouter fastrouter
fi
"""


def script(shell: str) -> str:
    """Return the script for one of ``SHELLS``."""
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell]()


def _bash() -> str:
    everything = {flag.name: flag for command in ("", *COMMANDS) for flag in flags(command)}
    indent = " " * 8
    values = []
    for names, action in _by_value(everything.values()):
        values.append(f"{indent}{'|'.join(names)})\n{indent}    {action}\n{indent}    return ;;")
    names_of = {command: " ".join(flag.name for flag in flags(command)) for command in ("", *COMMANDS)}
    return _BASH.format(
        values="\n".join(values),
        switches="|".join(["-h", *(flag.name for flag in everything.values() if not flag.metavar)]),
        commands="|".join(COMMANDS),
        flags="\n".join(
            f"""{indent}    '{command}') COMPREPLY=($(compgen -W '{names}' -- "$current")) ;;"""
            for command, names in names_of.items()
        ),
        command_words=" ".join(COMMANDS),
        shells=" ".join(SHELLS),
    )


def _by_value(found: Iterable[Flag]) -> Iterable[tuple[list[str], str]]:
    """Group the flags that take a value by what completes it in bash."""
    groups: dict[str, list[str]] = {}
    for flag in found:
        if not flag.metavar:
            continue
        action = ":"
        if flag.is_file:
            # Quoted by bash, where it can; one name a line, since names have spaces.
            action = "compopt -o filenames 2>/dev/null; local IFS=$'\\n'"
            action += '; COMPREPLY=($(compgen -f -- "$current"))'
        elif flag.choices:
            action = f"""COMPREPLY=($(compgen -W '{" ".join(flag.choices)}' -- "$current"))"""
        groups.setdefault(action, []).append(flag.name)
    return [(names, action) for action, names in groups.items()]


def _zsh() -> str:
    deep = " " * 16
    positional = {"completion": [f"'1:shell:({' '.join(SHELLS)})'"], "probe": ["'1:sandbox: '"]}
    alike: dict[tuple[str, ...], list[str]] = {}
    for command in COMMANDS:
        specs = [*(_zsh_flag(flag) for flag in flags(command)), *positional.get(command, [])]
        alike.setdefault(tuple(specs), []).append(command)
    rest = []
    for found, commands in alike.items():
        lines = " \\\n".join(f"{deep}    {spec}" for spec in found)
        rest.append(f"{deep}{'|'.join(commands)}) _arguments \\\n{lines} ;;")
    return _ZSH.format(
        commands="\n".join(f"        {_quoted(f'{name}:{text}')}" for name, text in _zsh_commands()),
        flags="\n".join(f"        {_zsh_flag(flag)}" for flag in flags()),
        rest="\n".join(rest),
    )


def _zsh_commands() -> Iterable[tuple[str, str]]:
    return [(name, text.replace(":", "\\:")) for name, text in COMMANDS.items()]


def _zsh_flag(flag: Flag) -> str:
    text = flag.help.replace("\\", "\\\\")
    for special in "[]:":
        text = text.replace(special, "\\" + special)
    if not flag.metavar:
        return _quoted(f"{flag.name}[{text}]")
    action = "_files" if flag.is_file else f"({' '.join(flag.choices)})" if flag.choices else " "
    return _quoted(f"{flag.name}=[{text}]:{flag.metavar.lower()}:{action}")


def _quoted(text: str) -> str:
    """Quote for zsh."""
    return "'" + text.replace("'", "'\\''") + "'"


def _fish() -> str:
    lines = [
        "# fish completion for fastrouter: fastrouter completion fish | source",
        "complete -c fastrouter -f",
        f"set -l commands {' '.join(COMMANDS)}",
    ]
    nothing_yet = "not __fish_seen_subcommand_from $commands"
    lines += [
        f'complete -c fastrouter -n "{nothing_yet}" -a {name} -d {_fish_quoted(text)}'
        for name, text in COMMANDS.items()
    ]
    lines.append(
        'complete -c fastrouter -n "__fish_seen_subcommand_from completion" -a '
        + _fish_quoted(" ".join(SHELLS))
    )
    # Commands that share a flag share its line: the settings' flags are the same for most of them.
    for flag, commands in _flags_with_commands():
        seen = [command for command in commands if command]
        conditions = [f"__fish_seen_subcommand_from {' '.join(seen)}"] if seen else []
        conditions += [nothing_yet] if "" in commands else []
        lines.append(f'complete -c fastrouter -n "{"; or ".join(conditions)}" {_fish_flag(flag)}')
    return "\n".join(lines) + "\n"


def _flags_with_commands() -> Iterable[tuple[Flag, list[str]]]:
    found: dict[Flag, list[str]] = {}
    for command in ("", *COMMANDS):
        for flag in flags(command):
            found.setdefault(flag, []).append(command)
    return found.items()


def _fish_flag(flag: Flag) -> str:
    text = f"-l {flag.name.removeprefix('--')} -d {_fish_quoted(flag.help)}"
    if flag.is_file:
        return text + " -r -F"
    if flag.choices:
        return text + f" -x -a {_fish_quoted(' '.join(flag.choices))}"
    return text + (" -x" if flag.metavar else "")


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
