"""The one thread: order, bounds, errors, forks. No token is needed to see them."""

import asyncio
import multiprocessing
import os
import threading
from concurrent.futures import Future

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing.hsm import HsmBusy, HsmError
from farthing.hsm.thread import HANDSHAKE_EVERY, MAX_WAITING_HANDSHAKES, HsmThread, Lane, Lanes, ToLoop, when_settled


@pytest.fixture
def thread():
    running = HsmThread()
    running.start()
    yield running
    running.stop()


def drain(lanes: Lanes) -> list[object]:
    order = []
    while (taken := lanes.next()) is not None:
        order.append(taken[0]())
    return order


def put(lanes: Lanes, lane: Lane, what: object) -> None:
    lanes.put(lane, lambda: what, Future())


def test_urgent_goes_first_and_handshakes_get_their_share():
    lanes = Lanes()
    for number in range(6):
        put(lanes, Lane.HANDSHAKE, f"h{number}")
        put(lanes, Lane.ORDINARY, f"o{number}")
    put(lanes, Lane.URGENT, "u0")
    assert drain(lanes) == ["u0", "o0", "o1", "h0", "o2", "o3", "o4", "h1", "o5", "h2", "h3", "h4", "h5"]


@given(st.lists(st.sampled_from(Lane), max_size=60))
def test_handshakes_take_at_most_their_share_while_others_wait(lane_list):
    lanes = Lanes()
    for number, lane in enumerate(lane_list):
        put(lanes, lane, (lane, number))
    order = drain(lanes)
    assert sorted(number for _, number in order) == list(range(len(lane_list)))
    for lane in Lane:
        numbers = [number for each, number in order if each is lane]
        assert numbers == sorted(numbers)
    others = [i for i, (lane, _) in enumerate(order) if lane is not Lane.HANDSHAKE]
    contended = order[: others[-1] + 1] if others else []
    handshakes = sum(lane is Lane.HANDSHAKE for lane, _ in contended)
    assert handshakes <= len(contended) // HANDSHAKE_EVERY + 1


def test_a_full_lane_refuses_and_leaves_the_others_open():
    lanes = Lanes()
    for number in range(MAX_WAITING_HANDSHAKES):
        put(lanes, Lane.HANDSHAKE, number)
    with pytest.raises(HsmBusy):
        put(lanes, Lane.HANDSHAKE, "one too many")
    put(lanes, Lane.URGENT, "batch")
    assert lanes.next()[0]() == "batch"


def test_everything_runs_on_one_thread(thread):
    callers = [threading.Thread(target=lambda: seen.append(thread.run(threading.get_ident))) for _ in range(8)]
    seen: list[int] = []
    for each in callers:
        each.start()
    for each in callers:
        each.join()
    assert len(set(seen)) == 1
    assert len(seen) == 8
    assert threading.get_ident() not in seen


def test_an_error_reaches_who_asked_and_the_thread_goes_on(thread):
    with pytest.raises(ZeroDivisionError):
        thread.run(lambda: 1 // 0)
    assert thread.run(lambda: "still here") == "still here"


def submit_until_refused(thread: HsmThread) -> None:
    while True:
        try:
            thread.submit(Lane.URGENT, lambda: "too late")
        except HsmBusy:
            continue
        except HsmError:
            return


def test_what_waits_when_it_stops_fails():
    thread = HsmThread()
    thread.start()
    entered, leave = threading.Event(), threading.Event()
    running = thread.submit(Lane.ORDINARY, lambda: (entered.set(), leave.wait()))
    entered.wait()
    waiting = [thread.submit(lane, lambda: "never") for lane in Lane]
    stopper = threading.Thread(target=thread.stop)
    stopper.start()
    submit_until_refused(thread)  # no new work from the moment it stops
    leave.set()
    stopper.join()
    assert running.done()
    for each in waiting:
        with pytest.raises(HsmError):
            each.result(timeout=0)


def test_stopped_says_so():
    with pytest.raises(HsmError, match="start"):
        HsmThread().run(lambda: None)


async def test_a_cancelled_caller_takes_its_work_out_of_the_queue(thread):
    entered, leave = threading.Event(), threading.Event()
    thread.submit(Lane.ORDINARY, lambda: (entered.set(), leave.wait()))
    await asyncio.to_thread(entered.wait)
    ran: list[str] = []
    waiting = thread.submit(Lane.ORDINARY, lambda: ran.append("cancelled"))
    asyncio.wrap_future(waiting).cancel()
    await asyncio.sleep(0)  # one round: the loop hands the cancellation on
    assert waiting.cancelled()
    leave.set()
    await asyncio.wrap_future(thread.submit(Lane.ORDINARY, lambda: ran.append("after")))
    assert ran == ["after"]


async def test_what_may_wait_comes_with_what_is_expected_before_it(thread):
    to_loop, heard = ToLoop.of(asyncio.get_running_loop()), []
    to_loop.expect()
    signed = thread.ask(Lane.ORDINARY, lambda: "signed", may_wait=True)
    await asyncio.to_thread(thread.run, lambda: None)  # behind it: it has been said, and nobody was woken
    assert not signed.done()
    # What may not wait wakes at once.
    assert await thread.ask(Lane.ORDINARY, lambda: "urgent") == "urgent"
    assert signed.done()
    # Two are expected: with the first comes what was ready, and once the last has come nothing waits any more.
    to_loop.expect()
    signed = thread.ask(Lane.ORDINARY, lambda: "signed", may_wait=True)
    await asyncio.to_thread(thread.run, lambda: None)
    to_loop.send_expected(lambda result, _: heard.append((result, signed.result())), "one", None)
    assert await signed == "signed"
    to_loop.send_expected(lambda result, _: heard.append(result), "another", None)
    assert heard == [("one", "signed")]
    assert await thread.ask(Lane.ORDINARY, lambda: "signed", may_wait=True) == "signed"
    assert heard[1:] == ["another"]


def _in_fork(thread: HsmThread) -> None:
    try:
        thread.submit(Lane.ORDINARY, os.getpid)
    except HsmError:
        os._exit(0)
    os._exit(1)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_is_refused(thread):
    child = multiprocessing.get_context("fork").Process(target=_in_fork, args=(thread,))
    child.start()
    child.join(10)
    assert child.exitcode == 0


async def test_what_follows_from_outcomes_follows_in_the_turn_that_brought_them(thread):
    """Those who say ``first`` before the rest; what they ask for again has to wait for the loop's next turn, in which others have theirs."""
    to_loop, done, over = ToLoop.of(asyncio.get_running_loop()), [], asyncio.Event()

    def took(_: object, __: BaseException | None) -> None:
        done.append("took")
        to_loop.soon(lambda: (done.append("decided"), to_loop.soon(lambda: (done.append("again"), over.set()))))
        to_loop.soon(lambda: done.append("wrote"), first=True)
        asyncio.get_running_loop().call_soon(done.append, "next turn")

    to_loop.send(took, None, None)
    await over.wait()
    assert done == ["took", "wrote", "decided", "next turn", "again"]
    to_loop.soon(lambda: done.append("outside a turn"))
    assert done[-1] == "again"
    await asyncio.sleep(0)  # one round of the loop
    assert done[-1] == "outside a turn"


async def test_who_fails_in_a_turn_keeps_nobody_from_his(thread):
    loop = asyncio.get_running_loop()
    told: list[str] = []
    loop.set_exception_handler(lambda _, context: told.append(str(context["exception"])))
    to_loop, over = ToLoop.of(loop), asyncio.Event()

    def fails(*_: object) -> None:
        to_loop.soon(fails_later)
        to_loop.soon(over.set)
        raise RuntimeError("now")

    def fails_later() -> None:
        raise RuntimeError("later")

    to_loop.send(fails, None, None)
    await over.wait()
    assert told == ["now", "later"]


async def test_who_asks_hears_when_it_is_settled_in_the_same_turn(thread):
    to_loop, heard = ToLoop.of(asyncio.get_running_loop()), []
    asked = thread.ask(Lane.ORDINARY, lambda: "made")
    when_settled(asked, lambda future: (heard.append(future.result()), to_loop.soon(lambda: heard.append("after"))))
    asked.add_done_callback(lambda future: heard.append(f"{future.result()}, next turn"))
    assert await asked == "made"
    assert heard == ["made", "after", "made, next turn"]
    # Who comes late hears too, and so does who asks of a future that is none of ours.
    other: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    other.set_result("other")
    for each in (asked, other):
        when_settled(each, lambda future: heard.append(future.result()))
    await asyncio.sleep(0)  # one round of the loop
    assert heard[3:] == ["made", "other"]


async def test_who_waits_for_what_is_cancelled_hears_it_once(thread):
    entered, leave, heard = threading.Event(), threading.Event(), []
    thread.submit(Lane.ORDINARY, lambda: (entered.set(), leave.wait()))
    await asyncio.to_thread(entered.wait)
    asked = thread.ask(Lane.ORDINARY, lambda: "never")
    when_settled(asked, lambda future: heard.append(future.cancelled()))
    assert asked.cancel()
    assert not asked.cancel()
    leave.set()
    assert await thread.ask(Lane.ORDINARY, lambda: "after") == "after"
    assert heard == [True]
