import json

from rarecli.core.jobs.progress import Silent
from rarecli.core.training.record import Record


class Ears(Silent):
    def __init__(self):
        self.said, self.warned = [], []

    def say(self, text):
        self.said.append(text)

    def warn(self, text):
        self.warned.append(text)


def test_starvation_is_said_once_in_words(tmp_path):
    ears = Ears()
    record = Record(tmp_path, ears)
    for epoch, waited in enumerate((0.1, 0.45, 0.5), start=1):
        record.tell({"epoch": epoch, "loss": 1.0, "seconds": 2.0, "waited_for_data": waited, "computed": 0.5}, 3, num_workers=0)
    assert ears.said == [
        f"epoch {epoch}/3  loss 1.0000  2.0 s (data {share}, network 50%)" for epoch, share in enumerate(("10%", "45%", "50%"), 1)
    ]
    (warning,) = ears.warned
    assert "45% of the time" in warning
    assert "num_workers" in warning


def test_the_log_goes_on_from_the_checkpoint_over_torn_lines(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"epoch": 1}\n{"epoch": 2}\n{"epoch": 3}\n[1]\n{"epoch": "2"}\n{"epo')
    record = Record(tmp_path, Silent())
    record.read(num_epochs=2, run=tmp_path)
    assert record.lines == [{"epoch": 1}, {"epoch": 2}]
    record.add({"epoch": 3, "loss": 1.0, "lr": 1e-3, "seconds": 1.0})
    assert [json.loads(line)["epoch"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [1, 2, 3]
    assert (tmp_path / "progress.png").stat().st_size > 1000
