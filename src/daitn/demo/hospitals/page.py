"""page"""


def page(recording: object) -> str:
    return ""
