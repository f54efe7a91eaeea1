"""Failed keys by address."""

from deployments.front.entry.failed_keys import BURST, MAX_ADDRESSES, FailedKeys
from deployments.front.http.client_network import network_of


def test_a_burst_then_so_many_a_minute() -> None:
    failed = FailedKeys(60)
    assert [failed.charge("1.1.1.1", 0.0) for _ in range(BURST + 2)] == [True] * BURST + [False] * 2
    assert failed.charge("1.1.1.1", 1.0)
    assert not failed.charge("1.1.1.1", 1.0)
    assert failed.charge("2.2.2.2", 1.0)
    assert sum(failed.charge("1.1.1.1", 1000.0) for _ in range(100)) == BURST


def test_a_few_a_minute_allow_no_burst() -> None:
    assert sum(FailedKeys(1).charge("1.1.1.1", 0.0) for _ in range(1)) == 1
    failed = FailedKeys(2)
    assert sum(failed.charge("1.1.1.1", 0.0) for _ in range(9)) == 2


def test_addresses_are_forgotten_one_by_one() -> None:
    failed = FailedKeys(60)
    for number in range(MAX_ADDRESSES + 10):
        failed.charge(str(number), 0.0)
    assert len(failed._buckets) == MAX_ADDRESSES


def test_an_ipv6_client_is_its_network() -> None:
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff:1") == "2001:db8::/64"
    assert network_of("2001:db8:0:1::1") != network_of("2001:db8::1")
    assert network_of("::ffff:1.2.3.4") == "1.2.3.4"
    assert network_of("fe80::1%eth0") == "fe80::/64"
    assert network_of("1.2.3.4") == "1.2.3.4"
    assert network_of("not:an:address") == "not:an:address"
    assert network_of("") == ""
