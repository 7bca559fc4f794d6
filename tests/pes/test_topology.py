"""What a PE knows of where it and its peers are."""

from shmemtp.topology import find


def test_all_pes_find_the_same(pe, comm):
    assert len(set(comm.allgather(pe.topology))) == 1
    assert find(pe) == pe.topology


def test_it_is_this_job(pe):
    topology = pe.topology
    assert (topology.pes, len(topology.links), len(topology.reach)) == (pe.size,) * 3
    assert topology.hosts[0] == 0
    for a in range(pe.size):
        assert topology.links[a][a] == "" and topology.reach[a][a]
        assert topology.links[a] == tuple(row[a] for row in topology.links)
    assert (topology.without_reach() is None) == (pe.heap.distances is not None)


def test_links_are_the_backends(pe):
    topology = pe.topology
    between = {topology.links[a][b] for a in range(pe.size) for b in range(pe.size) if a != b}
    if pe.backend == "emulator":
        assert between <= {"shared memory"}
        assert (topology.gpu, topology.cuda, topology.nvlinks, topology.nodes) == ("emulator", "", 0, 1)
    else:
        assert between <= {"NVLink", "PCIe", "network"}
        assert topology.gpu == pe.device.name and topology.cuda
        assert topology.nvlinks or "NVLink" not in between


def test_a_team_has_its_own(pe):
    team = pe.split(pe.rank % 2)
    part = pe.topology.of(team.pes)
    assert (part.pes, part.hosts) == (team.size, tuple(pe.topology.hosts[member] for member in team.pes))
    assert part.links[0][-1] == pe.topology.links[team.pes[0]][team.pes[-1]]
    assert pe.topology.of(range(pe.size)) == pe.topology


def test_its_line_counts_what_is_there(pe):
    line = str(pe.topology)
    assert line.startswith(f"{pe.size} PE{'s' * (pe.size > 1)} on ")
    assert ("over" in line) == (pe.size > 1)
