"""Networks: the frozen prior behind four verbs, MINE, and the critic. None of them knows a method."""
