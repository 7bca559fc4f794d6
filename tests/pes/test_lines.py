"""Lines arrive whole: no thread sees a line's tag before every word of it, however many are on their way."""

import numpy as np
from collecting import channel

from shmemtp.device import block_index, block_size, function, int64, kernel, local, open_lane, thread_index, uint32
from shmemtp.device.backend import NAME
from shmemtp.device.communicator import EXCHANGE, FIRST, PLACES, begin, finish
from shmemtp.device.lines import collect, post_to_all

ROUNDS = 20_000 if NAME == "gpu" else 60
BLOCKS, THREADS, PACKETS = (64, 512, 512) if NAME == "gpu" else (2, 3, 24)


@function
def word_of(rank, epoch, number):
    """Another one in every line, place and round."""
    return uint32(uint32(epoch) * uint32(2654435761) + uint32(rank << 20 | block_index() << 12 | number))


@kernel
def send_lines(comm, wrong, rounds):
    lane = open_lane(comm, local(comm.shape.lane_words, int64))
    data = local(comm.shape.pes_twice, uint32)
    for _ in range(rounds):
        epoch = begin(lane, EXCHANGE)
        for number in range(thread_index(), comm.shape.lines * PLACES, block_size()):
            word = word_of(comm.rank, epoch, number)
            post_to_all(lane, epoch, FIRST, number, word, ~word)
        for number in range(thread_index(), comm.shape.lines * PLACES, block_size()):
            collect(lane, epoch, FIRST, number, data)
            for p in range(comm.shape.pes):
                word = word_of(p, epoch, number)
                if number % PLACES != PLACES - 1 and (data[2 * p] != word or data[2 * p + 1] != ~word):
                    wrong[block_index()] += 1
        finish(lane, EXCHANGE, epoch)


def test_lines_arrive_whole(pe):
    comm = channel(pe, "one-shot, lines", BLOCKS, PACKETS)
    wrong = pe.device.array(BLOCKS, np.int64)
    pe.run(send_lines, BLOCKS, THREADS, comm, wrong, ROUNDS)
    comm.check("send_lines")
    np.testing.assert_array_equal(wrong.numpy(), np.zeros(BLOCKS))
    comm.free()
