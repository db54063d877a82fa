"""What the description of a node says about it."""

from app.database.cells.nodes import Node, unfit_logs


def node(address: str, **description: object) -> Node:
    host, _, port = address.partition(":")
    return Node(
        address=address,
        host=host,
        port=int(port),
        is_coordinator=False,
        is_active=True,
        description={"postgresql": "15.4", "citus": "13.0.5", "wal_level": "logical"} | description,
    )


class TestUnfitLogs:
    def test_names_the_nodes_whose_level_is_lower(self) -> None:
        (sentence,) = unfit_logs(
            [node("a:1", wal_level="replica"), node("b:2"), node("c:3", wal_level="minimal")]
        )
        assert sentence.startswith("wal_level has to be logical on a:1, c:3,")

    def test_is_silent_if_all_are_logical(self) -> None:
        assert not unfit_logs([node("a:1")])
