"""The helper that compares a page with an output accepts the parts that may vary, and no other difference."""

import pytest

from tests.support.documentation import anchors, links, shows, steps

OUTPUT = '{"id":"01a22406-4b20-7511-a264-544419d354fc","state":"active","at":"2026-11-28T21:18:42.003201Z","previous":null}'


class TestShows:
    @pytest.mark.parametrize(
        "shown",
        [
            OUTPUT,
            '{"id": "00000000-0000-7000-8000-000000000000",\n "state": "active", ...}',
            '{..., "at": "2025-01-01T00:00:00Z", "previous": null}',
        ],
    )
    def test_accepts_other_ids_times_and_white_space(self, shown: str) -> None:
        assert shows(OUTPUT, shown)

    @pytest.mark.parametrize(
        "shown",
        [
            '{"id": ..., "state": "disabled", ...}',
            '{"previous": null, ... "state": "active"}',
            '{"id": "first", ...}',
        ],
    )
    def test_rejects_other_values_and_another_order(self, shown: str) -> None:
        assert not shows(OUTPUT, shown)


class TestSteps:
    def test_are_the_shell_blocks_with_their_terminals_and_outputs(self) -> None:
        page = "```shell\n# terminal 2\none\n```\n\n```json\n{}\n```\n\n```sh\nnot run\n```\n\n```shell\ntwo\n```\n"

        found = [(step.terminal, step.block.text, step.shown) for step in steps(page)]

        assert found == [("2", "# terminal 2\none\n", "{}\n"), ("2", "two\n", None)]


class TestLinks:
    def test_are_those_into_the_repository(self) -> None:
        assert list(links("[a](b.md#c) [d](https://example.com) `[e](f)`")) == ["b.md#c"]

    def test_anchors_are_those_of_headings(self) -> None:
        assert anchors("# One, `two` & three\n\n## When to: go?\n") == {"one-two--three", "when-to-go"}
