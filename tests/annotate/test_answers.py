"""Who is shown what, and that every answer is stored once."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edit_r1.annotate.answers import Given, Undone, choice_of, record
from edit_r1.annotate.assignment import Plan, hand_out, is_gold_place, is_turned, release
from edit_r1.annotate.database import Database, TaskError, check_name
from edit_r1.store import StoreError

PLAN = Plan(annotators_per_pair=2, gold_every=0, lease_seconds=60)


@pytest.fixture
def database(tmp_path: Path, kit: SimpleNamespace):
    opened, _ = kit.open(kit.write_task(tmp_path, 6, principles=2))
    yield opened
    opened.close()


def stored(database: Database) -> list[tuple[str, str]]:
    return [tuple(row) for row in database.rows("SELECT id, choice FROM answers WHERE undone IS NULL ORDER BY number")]


def turned(database: Database, annotator: int, pair: int) -> bool:
    query = "SELECT turned FROM showings WHERE annotator = ? AND pair = ?"
    return bool(database.rows(query, (annotator, pair))[0][0])


def test_fewest_answers_first_and_no_pair_twice(database: Database) -> None:
    ann, bob, eve = (database.join(name) for name in ("Ann", "Bob", "Eve"))
    first = [one["pair"] for one in hand_out(database, ann, [], 6, PLAN, 0).pairs]
    assert sorted(first) == [1, 2, 3, 4, 5, 6]
    record(database, ann, [Given(f"ann-{pair:05}", pair, "left") for pair in first[:3]], 1, 60)
    fresh = [one["pair"] for one in hand_out(database, bob, [], 3, PLAN, 2).pairs]
    assert len(set(fresh)) == 3
    # Each pair has one answer or one lease of Ann's, three have Bob's lease too: nothing has two that are open to Eve.
    left = [one["pair"] for one in hand_out(database, eve, [], 6, PLAN, 3).pairs]
    assert sorted(left) == sorted(set(first) - set(fresh))
    again = hand_out(database, ann, first[3:], 6, PLAN, 4)
    assert again.pairs == () and not again.finished  # what she holds is still to be answered
    record(database, ann, [Given(f"ann-{pair:05}", pair, "same") for pair in first[3:]], 5, 60)
    assert hand_out(database, ann, [], 6, PLAN, 6).pairs == ()


def test_a_lease_that_ran_out_goes_to_another_and_a_late_answer_counts(database: Database) -> None:
    one = Plan(annotators_per_pair=1, gold_every=0, lease_seconds=60)
    ann, bob = database.join("Ann"), database.join("Bob")
    pairs = [shown["pair"] for shown in hand_out(database, ann, [], 6, one, 0).pairs]
    waiting = hand_out(database, bob, [], 6, one, 30)
    assert waiting.pairs == () and not waiting.finished
    assert len(hand_out(database, bob, [], 6, one, 61).pairs) == 6
    record(database, bob, [Given("bob-000001", pairs[0], "left")], 62, 60)
    # Her leases are over: what Bob answered or holds is not handed to her again.
    assert hand_out(database, ann, [], 6, one, 63).pairs == ()
    assert record(database, ann, [Given("ann-000001", pairs[0], "right")], 64, 60).stored == 1
    assert database.rows("SELECT answers FROM pairs WHERE number = ?", (pairs[0],))[0][0] == 2


def test_who_leaves_gives_back(database: Database) -> None:
    one = Plan(annotators_per_pair=1, gold_every=0, lease_seconds=600)
    ann, bob = database.join("Ann"), database.join("Bob")
    hand_out(database, ann, [], 6, one, 0)
    assert hand_out(database, bob, [], 6, one, 1).pairs == ()
    release(database, ann)
    assert len(hand_out(database, bob, [], 6, one, 2).pairs) == 6


def test_a_reloaded_page_gets_the_same_pairs_in_the_same_order(database: Database) -> None:
    ann = database.join("Ann")
    before = hand_out(database, ann, [], 4, PLAN, 0).pairs
    assert hand_out(database, ann, [], 4, PLAN, 1).pairs == before
    assert hand_out(database, ann, [before[0]["pair"]], 3, PLAN, 2).pairs == before[1:]


def test_an_answer_is_stored_once_however_often_it_comes(database: Database) -> None:
    ann = database.join("Ann")
    pair = hand_out(database, ann, [], 1, PLAN, 0).pairs[0]["pair"]
    given_once = Given("answer-1", pair, "left", 1.5, [1, None], None)
    assert [record(database, ann, [given_once], now, 60).stored for now in (1, 2, 3)] == [1, 0, 0]
    wanted = choice_of("left", turned(database, ann, pair))
    assert stored(database) == [("answer-1", wanted)]
    row = database.rows("SELECT verdicts, seconds, at FROM answers")[0]
    assert row["seconds"] == 1.5 and row["at"] == 1 and f'"{wanted}": [1, null]' in row["verdicts"]
    other = record(database, ann, [Given("answer-2", pair, "right")], 4, 60)
    assert other.stored == 0 and "in another window" in other.refused["answer-2"]
    bob = database.join("Bob")
    refused = record(database, bob, [Given("answer-1", pair, "left"), Given("answer-3", pair, "left")], 5, 60).refused
    assert refused == {"answer-1": "another answer has this id", "answer-3": "this pair was not shown to you"}
    short = Given("answer-4", hand_out(database, bob, [], 1, PLAN, 6).pairs[0]["pair"], "left", None, [1])
    assert "1 verdicts for 2 principles" in record(database, bob, [short], 7, 60).refused["answer-4"]


def test_undo_frees_the_pair_and_keeps_the_trace(database: Database) -> None:
    ann = database.join("Ann")
    pair = hand_out(database, ann, [], 1, PLAN, 0).pairs[0]["pair"]
    events = [Given("answer-1", pair, "left"), Undone("answer-1"), Given("answer-2", pair, "same")]
    for _ in range(2):  # all of it again, after an acknowledgement that was lost
        record(database, ann, events, 1, 60)
        assert stored(database) == [("answer-2", "same")]
        assert database.rows("SELECT answers FROM pairs WHERE number = ?", (pair,))[0][0] == 1
    assert [row[0] for row in database.rows("SELECT id FROM answers WHERE undone IS NOT NULL")] == ["answer-1"]
    record(database, ann, [Undone("answer-2"), Undone("never-sent")], 2, 60)
    assert stored(database) == []
    assert hand_out(database, ann, [], 1, PLAN, 3).pairs[0]["pair"] == pair


def test_a_skipped_pair_does_not_count(database: Database) -> None:
    ann = database.join("Ann")
    pairs = [one["pair"] for one in hand_out(database, ann, [], 6, PLAN, 0).pairs]
    record(database, ann, [Given(f"answer-{pair}", pair, "skip") for pair in pairs], 1, 60)
    assert {row[0] for row in database.rows("SELECT answers FROM pairs")} == {0}
    done = hand_out(database, ann, [], 6, PLAN, 2)
    assert done.pairs == () and done.finished


@given(
    moves=st.lists(
        st.tuples(
            st.integers(0, 2), st.sampled_from(["next", "left", "right", "same", "skip", "undo", "resend", "leave"])
        ),
        max_size=40,
    ),
    each=st.integers(1, 3),
    gold=st.integers(0, 3).filter(lambda every: every != 1),
)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_people_do_every_answer_is_there_once(
    tmp_path: Path, kit: SimpleNamespace, moves: list[tuple[int, str]], each: int, gold: int
) -> None:
    """Against a model that keeps what each person answered last."""
    (tmp_path / "answers.sqlite").unlink(missing_ok=True)  # of the last example
    database, _ = kit.open(kit.write_task(tmp_path, 5, gold=2))
    plan = Plan(annotators_per_pair=each, gold_every=gold, lease_seconds=5)
    people = [database.join(f"person {n}") for n in range(3)]
    held: list[list[int]] = [[] for _ in people]
    sent: list[list[Given | Undone]] = [[] for _ in people]
    truth: list[dict[int, str]] = [{} for _ in people]
    done: list[list[Given]] = [[] for _ in people]
    for now, (who, move) in enumerate(moves):
        if move == "next":
            got = hand_out(database, people[who], held[who], 2, plan, now).pairs
            assert not {one["pair"] for one in got} & (set(truth[who]) | set(held[who]))
            held[who] += [one["pair"] for one in got]
        elif move == "leave":
            release(database, people[who])
        elif move == "resend":
            assert record(database, people[who], sent[who], now, 5).stored == 0
        elif move == "undo":
            if done[who]:
                last = done[who].pop()
                sent[who].append(Undone(last.id))
                record(database, people[who], sent[who][-1:], now, 5)
                del truth[who][last.pair]
                held[who].insert(0, last.pair)
        elif held[who]:
            given_now = Given(f"answer-{who}-{now}", held[who].pop(0), move)  # type: ignore[arg-type]
            sent[who].append(given_now)
            assert record(database, people[who], [given_now], now, 5).stored == 1
            truth[who][given_now.pair] = move
            done[who].append(given_now)
    rows = database.rows("SELECT annotator, pair, choice FROM answers WHERE undone IS NULL")
    wanted = {
        (people[who], pair): choice_of(move, turned(database, people[who], pair))  # type: ignore[arg-type]
        for who in range(3)
        for pair, move in truth[who].items()
    }
    assert {(row["annotator"], row["pair"]): row["choice"] for row in rows} == wanted and len(rows) == len(wanted)
    counted = Counter(pair for (_, pair), choice in wanted.items() if choice != "skip")
    assert all(row["answers"] == counted[row["number"]] for row in database.rows("SELECT number, answers FROM pairs"))
    database.close()


def test_everybody_at_once_gets_pairs_and_loses_nothing(tmp_path: Path, kit: SimpleNamespace) -> None:
    database, _ = kit.open(kit.write_task(tmp_path, 30))
    plan = Plan(annotators_per_pair=2, gold_every=0, lease_seconds=600)

    def work(name: str) -> None:
        annotator = database.join(name)
        while not (handed := hand_out(database, annotator, [], 3, plan, 0)).finished:
            for one in handed.pairs:
                record(database, annotator, [Given(f"{name}-{one['pair']:08}", one["pair"], "left")], 0, 60)

    threads = [threading.Thread(target=work, args=(f"person-{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    per_pair = Counter(row["pair"] for row in database.rows("SELECT pair FROM answers"))
    assert sorted(per_pair.values()) == [2] * 30
    database.close()


def test_sides_are_drawn_evenly_and_stay(database: Database) -> None:
    drawn = [is_turned(0, name, f"pair-{n}") for name in ("Ann", "Bob") for n in range(1000)]
    assert drawn == [is_turned(0, name, f"pair-{n}") for name in ("Ann", "Bob") for n in range(1000)]
    assert abs(sum(drawn) / len(drawn) - 0.5) < 0.04
    assert drawn[:1000] != drawn[1000:] and drawn[0:1000] != [is_turned(1, "Ann", f"pair-{n}") for n in range(1000)]
    assert choice_of("left", False) == choice_of("right", True) == "first"
    assert choice_of("right", False) == choice_of("left", True) == "second"


def test_one_gold_pair_in_each_run(tmp_path: Path, kit: SimpleNamespace) -> None:
    for start in range(0, 200, 5):
        assert sum(is_gold_place(3, "Ann", place, 5) for place in range(start, start + 5)) == 1
    assert not any(is_gold_place(3, "Ann", place, 0) for place in range(50))
    database, _ = kit.open(kit.write_task(tmp_path, 20, gold=3))
    plan = Plan(annotators_per_pair=1, gold_every=4, lease_seconds=60)
    ann = database.join("Ann")
    shown = [one["pair"] for _ in range(4) for one in hand_out(database, ann, [], 16, plan, 0).pairs]
    gold = {row[0] for row in database.rows("SELECT number FROM pairs WHERE gold IS NOT NULL")}
    places = [place for place, pair in enumerate(dict.fromkeys(shown)) if pair in gold]
    assert len(places) == 3 and [place // 4 for place in places] == [0, 1, 2]
    assert "gold" not in str(hand_out(database, ann, [], 16, plan, 0).pairs[0].keys())
    database.close()


@pytest.mark.parametrize("name", ["", "  ", "x" * 41, "a\x00b", "\u202e"])
def test_unusable_names(name: str) -> None:
    with pytest.raises(TaskError, match="give one of 1 to 40"):
        check_name(name)


def test_names_are_one_line(database: Database) -> None:
    assert database.join("  Ann   Lee ") == database.join("Ann Lee")
    assert database.join("Zoe\u0301") == database.join("Zo\u00e9"), "two ways to write one letter"
    with pytest.raises(TaskError, match="no annotator 'Zoe'"):
        database.annotator("Zoe")


def test_one_person_under_two_spellings_of_a_name_sees_no_pair_twice(database: Database) -> None:
    """A phone begins names with a capital."""
    ann = database.join("Ann Lee")
    assert database.join("ann lee") == ann == database.join("Ann Lee") != database.join("Anna Lee")
    assert [row[0] for row in database.rows("SELECT name FROM annotators ORDER BY number")] == ["Ann Lee", "Anna Lee"]


def test_a_full_disk_stores_nothing_and_says_so(database: Database) -> None:
    ann = database.join("Ann")
    pair = hand_out(database, ann, [], 1, PLAN, 0).pairs[0]["pair"]
    database._connection.execute("PRAGMA query_only=1")  # what a read-only file system answers
    with pytest.raises(StoreError, match="free space there"):
        record(database, ann, [Given("answer-1", pair, "left")], 1, 60)
    database._connection.execute("PRAGMA query_only=0")
    assert stored(database) == []
    assert record(database, ann, [Given("answer-1", pair, "left")], 1, 60).stored == 1


def test_files_of_other_versions_are_left_alone(tmp_path: Path, kit: SimpleNamespace) -> None:
    database, _ = kit.open(kit.write_task(tmp_path, 1))
    with database.transaction() as connection:
        connection.execute("PRAGMA user_version=9")
    database.close()
    with pytest.raises(StoreError, match="version 9, not 1"):
        Database(tmp_path / "answers.sqlite")
    with pytest.raises(StoreError, match="begins a task"):
        Database(tmp_path / "nothing.sqlite")


def test_every_commit_is_on_the_disk(database: Database) -> None:
    assert database.rows("PRAGMA journal_mode")[0][0] == "wal"
    assert database.rows("PRAGMA synchronous")[0][0] == 2  # FULL
