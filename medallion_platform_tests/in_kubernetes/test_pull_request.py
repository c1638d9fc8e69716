"""A proposal as a branch of a real repository, and as a pull request at a server that answers as GitHub."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from medallion_platform.errors import Kind
from medallion_platform.kubernetes import pull_request
from medallion_platform.kubernetes.proposal import MOST_MEMORY, CannotChange, Proposal
from medallion_platform.kubernetes.pull_request import CannotPropose, Repository, open_pull_request
from medallion_platform_tests.in_kubernetes.github import (
    FILE,
    TOKEN,
    VALUES,
    GitHub,
    bare_repository,
    git,
    github_server,
)

PROPOSAL = Proposal("medallion/incident-abc-1", "Let it have more", "Why\n", MOST_MEMORY, "24g")


@pytest.fixture
def github() -> Iterator[GitHub]:
    with github_server() as found:
        yield found


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    return bare_repository(tmp_path)


@pytest.fixture
def repository(bare: Path, github: GitHub) -> Repository:
    return Repository(bare.as_uri(), FILE, github.address, TOKEN)


def branches(bare: Path) -> list[str]:
    return git(bare, "for-each-ref", "--format=%(refname:short)", "refs/heads").splitlines()


def test_a_branch_changes_one_line_and_waits_in_a_pull_request(
    repository: Repository, bare: Path, github: GitHub
) -> None:
    url = open_pull_request(repository, PROPOSAL)
    (pull,) = github.pulls
    assert url == pull["html_url"] == "https://github.example/team/pull/1"
    assert (pull["base"], pull["title"], pull["body"]) == ("trunk", PROPOSAL.title, PROPOSAL.body)
    assert branches(bare) == [PROPOSAL.branch, "trunk"]
    assert git(bare, "show", f"trunk:{FILE}") == VALUES.strip(), "nobody has approved it"
    changed = git(bare, "show", f"{PROPOSAL.branch}:{FILE}")
    assert changed == VALUES.replace("16g", "24g").strip()
    assert git(bare, "log", "-1", "--format=%an: %s", PROPOSAL.branch) == "medallion: Let it have more"


def test_one_incident_is_one_proposal_however_often_it_is_asked_for(
    repository: Repository, bare: Path, github: GitHub
) -> None:
    url = open_pull_request(repository, PROPOSAL)
    made = git(bare, "rev-parse", PROPOSAL.branch)
    assert open_pull_request(repository, replace(PROPOSAL, value="32g")) == url
    assert git(bare, "rev-parse", PROPOSAL.branch) == made
    git(bare, "branch", "--quiet", "-D", PROPOSAL.branch)  # it was closed: nobody wants it
    assert open_pull_request(repository, PROPOSAL) == url
    assert branches(bare) == ["trunk"]
    assert len(github.pulls) == 1
    other = open_pull_request(repository, replace(PROPOSAL, branch="medallion/incident-def-1"))
    assert other != url


def test_who_was_killed_between_branch_and_pull_request_goes_on(
    repository: Repository, bare: Path, github: GitHub, tmp_path: Path
) -> None:
    github.status = 503
    with pytest.raises(CannotPropose, match="refuses GET"):
        open_pull_request(repository, PROPOSAL)
    pull_request._push_branch(repository, PROPOSAL)
    made = git(bare, "rev-parse", PROPOSAL.branch)
    git(tmp_path / "work", "commit", "--quiet", "--allow-empty", "--message=others go on")
    git(tmp_path / "work", "push", "--quiet", str(bare), "trunk")
    github.status = 0
    assert open_pull_request(repository, PROPOSAL) == github.pulls[0]["html_url"]
    assert git(bare, "rev-parse", PROPOSAL.branch) == made


def test_of_two_at_the_same_moment_one_is_told_of_the_other_s(repository: Repository, github: GitHub) -> None:
    github.raced = True
    assert open_pull_request(repository, PROPOSAL) == github.pulls[0]["html_url"]
    assert len(github.pulls) == 1
    assert github.asked == ["GET", "POST", "GET"]


def test_what_refuses_is_named_without_the_token(
    repository: Repository, bare: Path, github: GitHub, tmp_path: Path
) -> None:
    wrong: list[tuple[Repository, str, Kind]] = [
        (replace(repository, token="wrong"), r"refuses GET .* 401 \(Bad credentials\)", Kind.AUTH),
        (replace(repository, file="other.yaml"), "has no file other.yaml", Kind.PERMANENT),
        (replace(repository, url=(tmp_path / "team" / "away").as_uri()), "git clone failed", Kind.PERMANENT),
        (replace(repository, api="http://127.0.0.1:9"), "does not answer", Kind.NETWORK),
    ]
    for place, says, kind in wrong:
        with pytest.raises(CannotPropose, match=says) as told:
            open_pull_request(place, PROPOSAL)
        assert told.value.kind is kind
        assert TOKEN not in f"{told.value}{place}"
    with pytest.raises(CannotPropose, match=f"is 16g in {FILE} already"):
        open_pull_request(repository, replace(PROPOSAL, value="16g"))
    with pytest.raises(CannotChange):
        open_pull_request(repository, replace(PROPOSAL, path=("runs", "limits", "mostMemory", "x")))
    assert branches(bare) == ["trunk"]
    assert github.pulls == []


def test_git_gets_the_token_for_its_own_server_alone_and_not_by_its_command_line(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_TRACE", "1")
    place = replace(repository, url="https://git.example/team/lake")
    known = {
        line.partition("=")[0]: line.partition("=")[2]
        for line in pull_request._git(place, tmp_path, "config", "--list").splitlines()
    }
    name, value = next((n, v) for n, v in known.items() if n.endswith("extraheader"))
    assert name == "http.https://git.example/.extraheader"
    scheme, login = value.removeprefix("Authorization: ").split()
    assert (scheme, b64decode(login).decode()) == ("Basic", f"x-access-token:{TOKEN}")
    assert not any(name.startswith("user.") for name in known), "nobody's own settings count"


def test_without_git_it_says_so(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(CannotPropose, match="there is no git here; install it"):
        open_pull_request(repository, PROPOSAL)
