"""The adapter bank: what it holds, what it refuses, and its books against a naive model."""

import threading

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kernels.errors import BankIntegrityError
from kernels.lora.bank import AdapterBank
from kernels.lora.lora_batch import LoraBatch
from kernels.lora.lora_reference import add_lora_reference
from kernels.lora.sites import FusedSite
from kernels.lora.torch_ops import add_lora
from kernels.tolerances import assert_close

SITE = FusedSite("gate_up", 5, (("gate", 6), ("up", 7)))
WIDTHS = {"gate": 6, "up": 7}


def make_adapter(rank, modules=("gate", "up"), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        path: (
            torch.randn(rank, 5, generator=generator),
            torch.randn(WIDTHS[path], rank, generator=generator),
            0.5,
        )
        for path in modules
    }


def test_bytes_and_rank_follow_the_adapter_not_the_limit():
    bank = AdapterBank([SITE], slots=4, max_rank=64)
    bank.write(0, make_adapter(2))
    bank.write(1, make_adapter(16))
    bank.write(2, make_adapter(16, ("up",)))
    assert [bank.rank(slot) for slot in range(4)] == [2, 16, 16, 0]
    assert bank.nbytes(0) < bank.nbytes(2) < bank.nbytes(1)
    assert bank.nbytes(3) == 0
    payload = 4 * (2 * 2 * 5 + 2 * 6 + 2 * 7)
    assert payload <= bank.nbytes(0) <= payload + 3 * 64
    assert bank.required_nbytes({"gate": 2, "up": 2}) == bank.nbytes(0)
    assert bank.occupied == {0, 1, 2}
    assert bank.allocated_nbytes >= sum(bank.nbytes(slot) for slot in range(4))


def test_clearing_gives_everything_back():
    bank = AdapterBank([SITE], slots=4, max_rank=64)
    for slot in range(4):
        bank.write(slot, make_adapter(1 + slot % 2))
    for slot in range(4):
        bank.clear(slot)
        bank.clear(slot)
    assert bank.allocated_nbytes == 0
    assert bank.occupied == frozenset()
    bank.check_integrity()


@pytest.mark.parametrize("slot", [-1, 2])
def test_a_slot_out_of_range_is_refused(slot):
    bank = AdapterBank([SITE], slots=2, max_rank=4)
    with pytest.raises(ValueError, match=r"outside 0\.\.1"):
        bank.write(slot, make_adapter(1))
    with pytest.raises(ValueError, match=r"outside 0\.\.1"):
        bank.clear(slot)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"down": (torch.zeros(1, 5), torch.zeros(6, 1), 1.0)}, "down is not a module"),
        ({"gate": (torch.zeros(1, 4), torch.zeros(6, 1), 1.0)}, "do not fit"),
        ({"gate": (torch.zeros(1, 5), torch.zeros(7, 1), 1.0)}, "do not fit"),
        ({"gate": (torch.zeros(2, 5), torch.zeros(6, 1), 1.0)}, "do not fit"),
        ({"gate": (torch.zeros(5), torch.zeros(6, 5), 1.0)}, "do not fit"),
        ({"gate": (torch.zeros(5, 5), torch.zeros(6, 5), 1.0)}, "rank 5 is outside 1..4"),
        ({"gate": (torch.zeros(0, 5), torch.zeros(6, 0), 1.0)}, "rank 0 is outside 1..4"),
    ],
    ids=["module", "in", "out", "ranks", "dimensions", "rank-high", "rank-zero"],
)
def test_tensors_that_do_not_fit_are_refused_and_change_nothing(tensors, message):
    bank = AdapterBank([SITE], slots=2, max_rank=4)
    bank.write(0, make_adapter(1))
    with pytest.raises(ValueError, match=message):
        bank.write(0, tensors)
    assert bank.rank(0) == 1
    bank.check_integrity()


def test_an_unknown_module_has_no_size():
    with pytest.raises(ValueError, match="down is not a module"):
        AdapterBank([SITE], slots=2, max_rank=4).required_nbytes({"down": 1})


def test_a_lost_position_is_found():
    bank = AdapterBank([SITE], slots=2, max_rank=4)
    bank.write(0, make_adapter(1))
    entry = bank.entry(0)
    entry.lane.release(entry.position)
    with pytest.raises(BankIntegrityError, match=r"hold 1 .* counts 0"):
        bank.check_integrity()


def test_writing_leaves_running_steps_of_other_slots_alone():
    bank = AdapterBank([SITE], slots=40, max_rank=4)
    adapter = make_adapter(2, seed=1)
    bank.write(0, adapter)
    failures = []

    def write_others():
        try:
            for turn in range(3):
                for slot in range(1, 40):
                    bank.write(slot, make_adapter(2, seed=slot))
                for slot in range(1, 40, 1 + turn):
                    bank.clear(slot)
        except Exception as error:
            failures.append(error)

    writer = threading.Thread(target=write_others)
    x, y = torch.randn(2, 5), torch.randn(2, 13)
    want = add_lora_reference(y, x, {0: adapter}, SITE.out_slices, [((0, 1.0),)] * 2)
    writer.start()
    while True:
        running = writer.is_alive()
        got = y.clone()
        add_lora(got, x, bank, 0, LoraBatch.build([(2, ((0, 1.0),))], bank))
        assert_close("lora", got, want)
        if not running:
            break
    writer.join()
    assert not failures
    bank.check_integrity()


class BankMachine(RuleBasedStateMachine):
    """Writes, clears and steps in any order, against a dict of adapters."""

    SLOTS = 9
    DTYPE, SEPARATE = torch.float32, False

    def __init__(self):
        super().__init__()
        self.bank = AdapterBank(
            [SITE], self.SLOTS, max_rank=8, dtype=self.DTYPE, separate=self.SEPARATE
        )
        self.model = {}

    @rule(
        slot=st.integers(0, SLOTS - 1),
        rank=st.sampled_from([1, 2]),
        modules=st.sampled_from([("gate", "up"), ("up",)]),
        seed=st.integers(0, 99),
    )
    def write(self, slot, rank, modules, seed):
        self.model[slot] = make_adapter(rank, modules, seed)
        self.bank.write(slot, self.model[slot])

    @rule(slot=st.integers(0, SLOTS - 1))
    def clear(self, slot):
        self.model.pop(slot, None)
        self.bank.clear(slot)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def step(self, data):
        mixture = st.dictionaries(
            st.sampled_from(sorted(self.model)), st.sampled_from([-1.0, 0.0, 0.5, 2.0]), max_size=4
        )
        row = st.tuples(st.sampled_from([1, 1, 2, 40]), mixture.map(lambda m: tuple(m.items())))
        rows = data.draw(st.lists(row, min_size=1, max_size=6))
        mixtures = [m for count, m in rows for _ in range(count)]
        generator = torch.Generator().manual_seed(7)
        x = torch.randn(len(mixtures), 5, generator=generator).to(self.DTYPE)
        y = torch.randn(len(mixtures), 13, generator=generator).to(self.DTYPE)
        want = add_lora_reference(y, x, self.model, SITE.out_slices, mixtures)
        batch = LoraBatch.build(rows, self.bank)
        if batch is not None:
            add_lora(y, x, self.bank, 0, batch)
        assert_close("lora", y.float(), want.float())

    @invariant()
    def books_balance(self):
        self.bank.check_integrity()
        assert self.bank.occupied == self.model.keys()
        if not self.model:
            assert self.bank.allocated_nbytes == 0


BankMachine.TestCase.settings = settings(
    max_examples=30,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
TestBankMachine = BankMachine.TestCase


class SeparateBankMachine(BankMachine):
    """The same with memory of its own for each adapter, through torch's operators: as on a GPU."""

    DTYPE, SEPARATE = torch.float64, True  # no native kernel computes in fp64

    @invariant()
    def no_row_is_spare(self):
        for lane in self.bank._lanes.values():
            assert lane.capacity == len(lane.used)
            assert lane.free == ()


SeparateBankMachine.TestCase.settings = BankMachine.TestCase.settings
TestSeparateBankMachine = SeparateBankMachine.TestCase


def test_a_gpu_reserves_what_its_adapters_take_and_no_more():
    bank = AdapterBank([SITE], slots=40, max_rank=4, separate=True)
    for slot in range(33):
        bank.write(slot, make_adapter(2, seed=slot))
    for slot in range(33, 40):
        bank.write(slot, make_adapter(1 + slot % 4, ("up",)))
    total = sum(bank.nbytes(slot) for slot in range(40))
    assert bank.allocated_nbytes == total
    bank.clear(5)
    bank.clear(39)
    assert bank.allocated_nbytes == sum(bank.nbytes(slot) for slot in range(40)) < total
    bank.check_integrity()


def test_an_adapters_address_stays_while_others_come():
    """Kernels that find it by address need no news of it."""
    bank = AdapterBank([SITE], slots=20, max_rank=4, separate=True)
    bank.write(0, make_adapter(2))
    entry = bank.entry(0)
    address = entry.lane.row(entry.position).data_ptr()
    for slot in range(1, 20):
        bank.write(slot, make_adapter(2, seed=slot))
    assert entry.lane.row(entry.position).data_ptr() == address


@pytest.mark.parametrize(
    ("dtype", "scaling", "finite"),
    [
        (torch.float32, 1e30, True),
        (torch.float32, 1e39, False),
        (torch.float16, 6e4, True),
        (torch.float16, 7e4, False),
        (torch.bfloat16, 7e4, True),
    ],
)
def test_what_storage_cannot_hold_is_seen(dtype, scaling, finite):
    bank = AdapterBank([SITE], slots=1, max_rank=4, dtype=dtype)
    ones = {
        path: (torch.ones_like(a), torch.ones_like(b), scaling)
        for path, (a, b, _) in make_adapter(2).items()
    }
    assert bank.pack(ones).is_finite is finite
