"""What `motley plan training --place` shows."""

from io import StringIO

from placing_clusters import cluster, island, small_model
from rich.console import Console

from planner.hardware.catalogue import built_in_catalogue
from planner.placing.place import place
from planner.placing.report import print_placement, ranks_text

WHERE = cluster(
    island("fast", devices_per_node=4, memory_bytes="6GiB"),
    island("slow", devices_per_node=4, memory_bytes="6GiB", relative_speed=0.5, nic="roce"),
)


def test_predicted_simulated_and_plain_stand_side_by_side() -> None:
    """Every reason is a line, every stage a row."""
    plan = place(
        WHERE,
        small_model(),
        sequence_tokens=1024,
        sequences_per_batch=16,
        catalogue=built_in_catalogue(),
    )
    text = StringIO()
    print_placement(plan, WHERE, Console(file=text, width=160, highlight=False))
    shown = text.getvalue()
    assert f"tensor {plan.tensor}, context {plan.context}, pipeline {plan.pipeline}" in shown
    assert "predicted" in shown
    assert "simulated (+0.00%)" in shown or "simulated (-0.00%)" in shown
    assert shown.count("why: ") == len(plan.reasons)


def test_ranks_are_written_as_runs() -> None:
    """Neighbours are joined, others listed."""
    assert ranks_text((8, 9, 10, 3, 5, 6)) == "8-10,3,5-6"
