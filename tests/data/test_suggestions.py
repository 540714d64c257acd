"""The hint for a misspelt name: the most similar one, in the form that each kind of message needs."""

from __future__ import annotations

import pytest

from detectors.data.suggestions import did_you_mean, nearest


@pytest.mark.parametrize(
    ("name", "settings", "hint"),
    [
        ("stpes", {}, "; did you mean steps?"),
        ("stpes", {"place": "trainer"}, "; did you mean trainer.steps?"),
        ("STEPS", {"quoted": True}, "; did you mean 'steps'?"),
        ("zzz", {}, ""),
        ("zzz", {"listed": True}, "; there are: steps, batch_size"),
        ("batchsize", {"listed": True}, "; did you mean batch_size?"),
        ("size", {}, ""),
        ("Size", {"words": True, "quoted": True}, "; did you mean 'batch_size'?"),
        ("siz", {"words": True}, ""),
    ],
)
def test_the_most_similar_name_is_suggested(name, settings, hint):
    assert did_you_mean(name, ["steps", "batch_size"], **settings) == hint


def test_without_any_choice():
    assert nearest("a", []) is None
    assert did_you_mean("a", [], listed=True) == "; there are: none"
