"""``handfast completion``: what a shell evaluates to complete our commands."""

from __future__ import annotations

import click

__all__ = ["completion"]


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script for SHELL.

    \b
    bash:  echo 'eval "$(handfast completion bash)"' >> ~/.bashrc
    zsh:   echo 'eval "$(handfast completion zsh)"' >> ~/.zshrc
    fish:  handfast completion fish > ~/.config/fish/completions/handfast.fish
    """
    from click.shell_completion import get_completion_class

    from handfast.cli.main import root

    found = get_completion_class(shell)
    assert found is not None  # click.Choice lets nothing else through
    print(found(root, {}, "handfast", "_HANDFAST_COMPLETE").source())
