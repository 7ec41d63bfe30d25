"""What the processes of `--processes N` are told."""

from finetune.local_runs.launch import group_environment


def test_processes_of_one_machine_meet_on_loopback():
    """Whatever this host is called; its other variables stay."""
    told = group_environment({"HOME": "/home/me", "WORLD_SIZE": "9"}, num_processes=2)
    assert told["MASTER_ADDR"] == "127.0.0.1"
    assert told["GLOO_SOCKET_IFNAME"] == "lo"
    assert (told["WORLD_SIZE"], told["HOME"]) == ("2", "/home/me")


def test_a_given_interface_and_thread_count_are_kept():
    """Who sets them knows why."""
    given = {"GLOO_SOCKET_IFNAME": "eth1", "OMP_NUM_THREADS": "3"}
    assert group_environment(given, num_processes=2).items() >= given.items()
