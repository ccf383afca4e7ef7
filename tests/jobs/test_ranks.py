import pytest

from rarecli.core.errors import DataError, EnvironmentFault, UsageError
from rarecli.core.jobs.ranks import Ranks, _meeting_point, find_ranks, require_useful


def test_who_a_process_is():
    assert find_ranks({}) == Ranks(0, 1, 0)
    torchrun = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
    slurm = {"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "0"}
    assert find_ranks(torchrun) == Ranks(5, 8, 1)
    assert find_ranks(slurm) == Ranks(2, 4, 0)
    assert find_ranks(torchrun | slurm) == Ranks(5, 8, 1)
    # a batch script, or a shell on a node: SLURM has four tasks, but none was started
    assert find_ranks({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0"}) == Ranks(0, 1, 0)
    with pytest.raises(EnvironmentFault, match="variables are invalid"):
        find_ranks({"RANK": "one", "WORLD_SIZE": "2", "LOCAL_RANK": "0"})


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("alone", "alone"), ("a1,b2", "a1"), ("node[03-07,9],other1", "node03"), ("gpu-[12]", "gpu-12"), ("n[1-2]-ib,x", "n1-ib")],
)
def test_the_ranks_of_a_slurm_step_meet_at_its_first_machine(nodes, first):
    assert _meeting_point({"SLURM_STEP_NODELIST": nodes, "SLURM_JOB_ID": "4020001"}) == (first, 20001)


def test_every_item_belongs_to_one_rank():
    for num in range(1, 6):
        shares = [Ranks(rank, num).share(list("abcdefg")) for rank in range(num)]
        assert sorted(item for share in shares for item in share) == list("abcdefg")


def test_a_rank_without_work_is_refused():
    require_useful(Ranks(0, 4), batch_size=4, num_cases=9)
    with pytest.raises(UsageError, match="more ranks than cases") as caught:
        require_useful(Ranks(0, 4), batch_size=2, num_cases=9)
    assert "--set batch_size=4" in str(caught.value)
    with pytest.raises(UsageError, match="more ranks than cases") as caught:
        require_useful(Ranks(0, 4), batch_size=8, num_cases=3)
    assert "fewer ranks" in str(caught.value)


def test_an_error_of_one_rank_carries_its_number():
    with pytest.raises(DataError, match="broken") as caught, Ranks(3, 4).signing():
        raise DataError("broken")
    assert "rank: 3" in str(caught.value)
    with pytest.raises(DataError, match="broken") as caught, Ranks().signing():
        raise DataError("broken")
    assert "rank" not in str(caught.value)
