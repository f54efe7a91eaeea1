"""Places of those who wait at a front."""

from contextlib import ExitStack

import pytest

from cluster.domain.ids import TenantId
from cluster.errors import Overloaded
from cluster.tenancy.waiting_places import WaitingPlaces

ACME, GLOBEX, THIRD = TenantId("acme"), TenantId("globex"), TenantId("third")


def take(places: WaitingPlaces, stack: ExitStack, tenant: TenantId, seconds: float = 1) -> None:
    stack.enter_context(places.place(tenant)).take(seconds)


def test_a_tenant_may_fill_the_places_and_another_gets_its_share_all_the_same() -> None:
    places = WaitingPlaces(6)
    with ExitStack() as stack:
        for _ in range(6):
            take(places, stack, ACME)
        with pytest.raises(Overloaded, match="6 sequences of this tenant wait"):
            take(places, stack, ACME)
        for _ in range(3):
            take(places, stack, GLOBEX)
        with pytest.raises(Overloaded, match="3 sequences of this tenant wait"):
            take(places, stack, GLOBEX)
        for _ in range(2):
            take(places, stack, THIRD)
        with pytest.raises(Overloaded):
            take(places, stack, THIRD)
        assert len(places) == 11
    assert len(places) == 0
    with places.place(ACME) as place:
        place.take()


def test_shares_of_the_places_go_by_weight() -> None:
    places = WaitingPlaces(8)
    with ExitStack() as stack:
        for _ in range(8):
            take(places, stack, ACME)
        for _ in range(6):
            stack.enter_context(places.place(GLOBEX, 3.0)).take()
        with pytest.raises(Overloaded, match="6 sequences of this tenant wait"):
            stack.enter_context(places.place(GLOBEX, 3.0)).take()
        stack.enter_context(places.place(THIRD, 0.001)).take()
        with pytest.raises(Overloaded, match="1 sequences of this tenant wait"):
            stack.enter_context(places.place(THIRD, 0.001)).take()


def test_a_place_is_taken_once_and_given_back_once() -> None:
    places = WaitingPlaces(1)
    with places.place(ACME) as first:
        assert len(places) == 0
        first.take()
        first.take()
        assert len(places) == 1
        with places.place(ACME) as second, pytest.raises(Overloaded):
            second.take()
        first.leave()
    assert len(places) == 0


@pytest.mark.parametrize(("seconds", "told"), [(0.0, 1), (1.0, 1), (7.2, 8)])
def test_the_refusal_says_when_to_come_back(seconds: float, told: int) -> None:
    places = WaitingPlaces(1)
    with ExitStack() as stack:
        take(places, stack, ACME)
        with pytest.raises(Overloaded) as refusal:
            take(places, stack, ACME, seconds)
    assert refusal.value.retry_after_s == told
    assert f"try again in {told} s" in refusal.value.message


def test_fewer_places_turn_out_nobody() -> None:
    places = WaitingPlaces(3)
    with ExitStack() as stack:
        for _ in range(3):
            take(places, stack, ACME)
        places.follow(1)
        assert len(places) == 3
        with pytest.raises(Overloaded):
            take(places, stack, ACME)
