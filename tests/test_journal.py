"""Answers on disk: whole ones are read back, torn and damaged ones are dropped."""

import numpy as np
import pytest

from robust.core.errors import RobustError
from robust.journal import FileJournal

KEYS = [bytes([number]) * 20 for number in range(6)]
ANSWERS = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)


def journal(path):
    return FileJournal(path, lambda: path.parent.mkdir(exist_ok=True))


def written(path, upto=4):
    first = journal(path)
    first.append(KEYS[:2], ANSWERS[:2])
    first.append(KEYS[2:upto], ANSWERS[2:upto])
    first.close()
    return path


def same(found, numbers):
    assert list(found) == [KEYS[number] for number in numbers]
    for number in numbers:
        assert np.array_equal(found[KEYS[number]], ANSWERS[number])


def test_what_was_appended_is_there_before_it_is_closed(tmp_path):
    path = tmp_path / "queries" / "a.answers"
    first = journal(path)
    assert first.read() == {}
    assert not path.parent.exists()
    first.append(KEYS[:3], ANSWERS[:3])
    same(journal(path).read(), range(3))


def test_a_later_process_goes_on_behind_it(tmp_path):
    path = written(tmp_path / "a.answers")
    later = journal(path)
    same(later.read(), range(4))
    later.append(KEYS[4:], ANSWERS[4:])
    later.close()
    same(journal(path).read(), range(6))


@pytest.mark.parametrize("cut", [1, 4, 17, 39])
def test_a_torn_record_is_dropped_and_overwritten(cut, tmp_path):
    path = written(tmp_path / "a.answers")
    path.write_bytes(path.read_bytes()[:-cut])
    later = journal(path)
    same(later.read(), range(3))
    later.append(KEYS[4:], ANSWERS[4:])
    later.close()
    same(journal(path).read(), [0, 1, 2, 4, 5])


@pytest.mark.parametrize("place", [25, 45, 60])
def test_a_damaged_record_and_all_behind_it_is_dropped(place, tmp_path):
    path = written(tmp_path / "a.answers")
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)
    found = journal(path).read()
    assert len(found) <= 1
    same(found, range(len(found)))
    later = journal(path)
    later.read()
    later.append(KEYS[5:], ANSWERS[5:])
    later.close()
    same(journal(path).read(), [*range(len(found)), 5])


@pytest.mark.parametrize("content", [b"", b"robust", b"something else altogether\n" * 9])
def test_no_journal_at_all_is_none(content, tmp_path):
    path = tmp_path / "a.answers"
    path.write_bytes(content)
    there = journal(path)
    assert there.read() == {}
    there.append(KEYS[:1], ANSWERS[:1])
    there.close()
    same(journal(path).read(), [0])


def test_another_number_of_classes_is_refused(tmp_path):
    path = written(tmp_path / "a.answers")
    later = journal(path)
    later.read()
    with pytest.raises(RobustError, match="3 scores, and with 4 before"):
        later.append(KEYS[4:], ANSWERS[4:, :3])
