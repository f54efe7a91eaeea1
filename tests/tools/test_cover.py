"""The shares of lines that tests reached, by folder."""

from tools.cover import Share, sum_folders


def test_lines_are_summed_by_folder() -> None:
    def file(statements: int, covered: int) -> dict[str, dict[str, int]]:
        return {"summary": {"num_statements": statements, "covered_lines": covered}}

    report = {"files": {"a/x.py": file(10, 5), "a/b/y.py": file(30, 30), "ab/z.py": file(60, 1)}}
    shares = sum_folders(report, ["", "a", "a/b", "none"])
    assert shares == {"": Share(100, 36), "a": Share(40, 35), "a/b": Share(30, 30)}
    assert str(shares["a"]) == " 87.5% of 40 lines"
