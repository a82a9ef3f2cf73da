def is_correct(visible, answer):
    return "\\boxed{%s}" % answer in visible
