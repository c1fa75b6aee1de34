"""Small stand-ins for BIG-bench's files, shaped as those are."""


def choice_task(task: str, count: int = 60) -> list[dict]:
    """Examples with the choices that the real task's have."""
    if task in ("strategyqa", "causal_judgment", "winowhy"):
        labels = ["correct", "incorrect"] if task == "winowhy" else ["Yes", "No"]
        story = "A long story about a small boat and its crew went on and on. " * 9
        return [
            {"input": f"{story}Did number {i} matter?", "target_scores": {labels[0]: i % 3 == 0, labels[1]: i % 3 != 0}}
            for i in range(count)
        ]
    if task == "timedial":
        talk = "A: Good morning, how long did the journey take you?\nB: Well, it was slow. " * 3
        return [
            {
                "input": f"Which phrase best fits the <MASK> span? Context: \nNumber {i // 2}. {talk}It took <MASK> or so.\nA:",
                "target_scores": {"two years ": 0, f"{i + 900} days": 0, "three hours": 1},
            }
            for i in range(count)
        ]
    return [
        {"input": f"Person {i} went out. Why? ", "target_scores": {f"To sing {i}": 0, f"To eat {i}": 1, f"To fly {i}": 0}}
        for i in range(count)
    ]


def disfl_qa(count: int = 40) -> list[dict]:
    """Passages of two questions each, split from their punctuation."""
    examples = []
    for i in range(count):
        passage = (
            f"Here stands a mill . Mill {i} was built in the past by one Harald{i} Senn , who came here . "
            f"In later years the whole of mill {i} was sold to the town of Orlen{i} , which keeps it ( to this day ) open . "
            + "Nothing else is known of it . "
            * (1 + i % 14)
        )
        for question, answer in (
            (f"Who built um no who made mill {i} ?", f"Harald{i} Senn"),
            (f"Which town owns mill {i} ?", f"Orlen{i}"),
        ):
            examples.append({"input": f"{question}  \ncontext: {passage}", "target": answer})
        examples.append({"input": f"Why ?  \ncontext: {passage}", "target": "unknown"})
    return examples
