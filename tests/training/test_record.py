import json

from rarecli.core.jobs.progress import Silent
from rarecli.core.training.record import Record
from rarecli.core.training.state import TrainState


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


def test_the_outlook_is_the_best_value_and_the_time_of_the_whole_training(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("rarecli.core.training.record.time.monotonic", lambda: now[0])
    record = Record(tmp_path, Ears())
    assert record.outlook(TrainState(), 80) == ""
    assert record.label(TrainState(), 80) == "epoch 1/80"
    now[0] += 240  # two epochs of two minutes each
    assert record.outlook(TrainState(epoch=2), 80) == "2 h 36 min left"
    state = TrainState(epoch=2, best=0.81234, best_epoch=2)
    assert record.label(state, 80) == "epoch 3/80, best 0.8123 in epoch 2"  # the progress of the epoch adds its own time
    assert record.outlook(state, 80) == "best 0.8123 in epoch 2, 2 h 36 min left"
    assert record.outlook(TrainState(epoch=80, best=0.9, best_epoch=72), 80) == "best 0.9000 in epoch 72"
    record.tell({"epoch": 2, "loss": 1.0, "seconds": 120.0, "waited_for_data": 0, "computed": 1}, 80, 0, "2 h 36 min left")
    assert record.reporter.said == ["epoch 2/80  loss 1.0000  2 min (data 0%, network 100%)  2 h 36 min left"]


def test_a_resumed_training_counts_only_its_own_epochs(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("rarecli.core.training.record.time.monotonic", lambda: now[0])
    record = Record(tmp_path, Silent())
    (tmp_path / "log.jsonl").write_text("".join(f'{{"epoch": {epoch}}}\n' for epoch in range(1, 71)))
    record.read(num_epochs=70, run=tmp_path)
    now[0] = 60.0
    assert record.outlook(TrainState(epoch=70), 80) == ""
    assert record.outlook(TrainState(epoch=71), 80) == "9 min left"


def test_the_log_goes_on_from_the_checkpoint_over_torn_lines(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"epoch": 1}\n{"epoch": 2}\n{"epoch": 3}\n[1]\n{"epoch": "2"}\n{"epo')
    record = Record(tmp_path, Silent())
    record.read(num_epochs=2, run=tmp_path)
    assert record.lines == [{"epoch": 1}, {"epoch": 2}]
    record.add({"epoch": 3, "loss": 1.0, "lr": 1e-3, "seconds": 1.0})
    assert [json.loads(line)["epoch"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [1, 2, 3]
    assert (tmp_path / "progress.png").stat().st_size > 1000
