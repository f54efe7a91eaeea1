"""A request goes to a replica with its tenant's weight."""

from tests.support.http_front import TENANTS, HttpFront, write_tenants
from tests.support.openai_bodies import COMPLETIONS, completion


async def sent_weight(front: HttpFront, tenant: str = "acme") -> float:
    answer = await front.post(COMPLETIONS, completion(model="sql"), tenant)
    assert answer.status_code == 200
    return front.script.submitted[-1].weight


async def test_a_changed_weight_goes_with_the_next_request(front: HttpFront) -> None:
    assert await sent_weight(front) == 1.0
    acme, *others = TENANTS
    write_tenants(front.tenants_file, ({**acme, "weight": 3.0}, *others))
    while await sent_weight(front) != 3.0:
        await front.pause()
    assert await sent_weight(front, "globex") == 1.0
