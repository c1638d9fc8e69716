"""Opens a pull request at GitHub with a proposal: a branch with the changed file, made by git, and its text.

Every step may be killed and done again: a branch or a pull request that is there is not made twice. Nothing
is merged here. The API is that of "Pull requests" in GitHub's REST documentation, version 2022-11-28.
"""

from __future__ import annotations

import os
import subprocess
from base64 import b64encode
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from medallion_platform.certificates import tls_context
from medallion_platform.errors import Kind, MedallionError, classify, kind_of_status
from medallion_platform.kubernetes.proposal import Proposal, with_value

if TYPE_CHECKING:
    import httpx

_SECONDS = 120
_AUTHOR = ("-c", "user.name=medallion", "-c", "user.email=medallion@localhost", "-c", "commit.gpgsign=false")


class CannotPropose(MedallionError):
    """A pull request was not opened; the text says why. Whoever tries again goes on where this one ended."""

    kind = Kind.PERMANENT


@dataclass(frozen=True)
class Repository:
    """Where the values of an installation are kept.

    url: of the repository, without a user. file: the path of the values in it. api: of GitHub. token: may
    push branches, and open pull requests.
    """

    url: str
    file: str
    api: str
    token: str = field(repr=False)

    @property
    def name(self) -> str:
        """`owner/name`."""
        return "/".join(urlsplit(self.url).path.removesuffix("/").removesuffix(".git").split("/")[-2:])


def open_pull_request(repository: Repository, proposal: Proposal) -> str:
    """The address of the pull request of a proposal; it is opened unless there is one, open or closed.

    Raises:
        CannotPropose: git or GitHub refuses, or the file is not there.
        CannotChange: the file cannot be changed as proposed.
    """
    with _client(repository) as client:
        if found := _opened(client, repository, proposal):
            return found
        base = _push_branch(repository, proposal)
        pull = {"title": proposal.title, "body": proposal.body, "head": proposal.branch, "base": base}
        try:
            return _ask(client, "POST", f"/repos/{repository.name}/pulls", json=pull)["html_url"]
        except CannotPropose:
            # Somebody else may have opened it at the same moment.
            if found := _opened(client, repository, proposal):
                return found
            raise


def _opened(client: httpx.Client, repository: Repository, proposal: Proposal) -> str:
    """The address of the pull request of a proposal, "" without one."""
    owner = repository.name.partition("/")[0]
    asked = {"head": f"{owner}:{proposal.branch}", "state": "all"}
    found = _ask(client, "GET", f"/repos/{repository.name}/pulls", params=asked)
    return next((pull["html_url"] for pull in found if pull["head"]["ref"] == proposal.branch), "")


def _client(repository: Repository) -> httpx.Client:
    import httpx

    headers = {
        "Accept": "application/vnd.github+json",
        "Authorization": f"Bearer {repository.token}",
        "X-GitHub-Api-Version": "2022-11-28",
    }
    return httpx.Client(base_url=repository.api, headers=headers, verify=tls_context(), timeout=30)


def _ask(client: httpx.Client, verb: str, path: str, **what: Any) -> Any:
    import httpx

    try:
        answer = client.request(verb, path, **what)
        told = answer.json() if answer.content else {}
    except (httpx.HTTPError, ValueError) as error:
        raise CannotPropose(
            f"{client.base_url.host} does not answer as GitHub does ({type(error).__name__})",
            kind=classify(error).kind,
            remedy="try again, or see whether MEDALLION_GITHUB_API is right",
        ) from error
    if answer.is_success:
        return told
    why = told.get("message", "") if isinstance(told, dict) else ""
    raise CannotPropose(
        f"{client.base_url.host} refuses {verb} {path} with {answer.status_code} ({why})",
        kind=kind_of_status(answer.status_code) or Kind.PERMANENT,
        remedy="MEDALLION_GIT_TOKEN has to be one that may push branches and open pull requests there",
    )


def _push_branch(repository: Repository, proposal: Proposal) -> str:
    """Make the branch with the changed file, unless it is there; gives the one to merge it into."""
    said = f"--message={proposal.title}\n\n{proposal.body}"
    with TemporaryDirectory(prefix="medallion-proposal-") as folder:
        clone = Path(folder, "clone")
        _git(repository, folder, "clone", "--quiet", "--depth=1", "--no-tags", repository.url, str(clone))
        _change_file(repository, clone, proposal)
        _git(repository, clone, *_AUTHOR, "commit", "--quiet", "--no-verify", "--all", said)
        branch = f"refs/heads/{proposal.branch}"
        try:
            _git(repository, clone, "push", "--quiet", "origin", f"HEAD:{branch}")
        except CannotPropose:  # of a branch that is there, by a call that was killed, or at this moment
            if not _git(repository, clone, "ls-remote", "--heads", "origin", branch):
                raise
        return _git(repository, clone, "symbolic-ref", "--short", "HEAD")


def _change_file(repository: Repository, clone: Path, proposal: Proposal) -> None:
    file = clone / repository.file
    if not file.is_file():
        raise CannotPropose(
            f"{repository.url} has no file {repository.file}",
            remedy="MEDALLION_GIT_VALUES has to name the one with the values of the chart",
        )
    with file.open(encoding="utf-8", newline="") as kept:  # whatever its lines end with
        text = kept.read()
    changed = with_value(text, proposal.path, proposal.value)
    if changed == text:
        told = f"{'.'.join(proposal.path)} is {proposal.value} in {repository.file} already"
        raise CannotPropose(told, remedy="deploy it")
    file.write_text(changed, encoding="utf-8", newline="")


def _git(repository: Repository, where: Path | str, *arguments: str) -> str:
    """What git says. The token is given by the environment: command lines can be read by everybody."""
    place = urlsplit(repository.url)
    login = b64encode(f"x-access-token:{repository.token}".encode()).decode()
    of_git = {
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"http.{place.scheme}://{place.netloc}/.extraHeader",
        "GIT_CONFIG_VALUE_0": f"Authorization: Basic {login}",
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(  # noqa: S603
            ["git", *arguments],  # noqa: S607
            cwd=where,
            env={**kept, **of_git},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
        )
    except FileNotFoundError as error:
        raise CannotPropose("there is no git here", remedy="install it, or call this where it is") from error
    except subprocess.TimeoutExpired as error:
        raise CannotPropose(f"git waited {_SECONDS} s for {repository.url}", kind=Kind.NETWORK) from error
    if done.returncode:
        told = done.stderr.strip().splitlines()
        why = next((line for line in told if line.startswith("fatal: ")), told[-1] if told else "")
        verb = next(word for word in arguments if not word.startswith("-") and "=" not in word)
        raise CannotPropose(f"git {verb} failed for {repository.url}: {why}")
    return done.stdout.strip()
