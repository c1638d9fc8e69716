"""Causes of failures, and the class that a person on call gives each.

It is written down before any rule is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

Cause = Callable[..., object]

PASSWORD, ROW = "hunter2-planted-password", "ann.planted@example.org"
"""What servers are told and what rows hold; neither may be in a line of the corpus."""


def causes(listed: Mapping[str, Mapping[str, Cause]]) -> pytest.MarkDecorator:
    """For each class its causes by their names: the parameters `kind` and `cause` of a test."""
    of = [(kind, name, cause) for kind, named in listed.items() for name, cause in named.items()]
    return pytest.mark.parametrize(
        ("kind", "cause"), [pytest.param(kind, cause, id=f"{kind}-{name}") for kind, name, cause in of]
    )


def fails(cause: Cause, *told: object) -> None:
    """Let it fail; which error it is, whoever keeps failures is told."""
    with pytest.raises(BaseException) as caught:
        cause(*told)
    assert caught.value
