"""Interleaved rounds: every row measures every candidate once a round, in turning order, and medians are taken."""

import statistics
import sys

from measure import FIGURES


class Rounds:
    """All figures of a run: `figures[row][candidate]` is a list with one entry a round."""

    def __init__(self, world, candidates):
        self.world = world
        self.candidates = candidates
        self.figures = {}

    def run(self):
        settings = self.world.settings
        for candidate in self.candidates:
            if not any(self._takes(row, candidate) for row in settings.rows):
                continue
            # wrk shows no certificate.
            candidate.strict = settings.tool != "wrk"
            candidate.start()
        for row in settings.rows:
            takers = [candidate for candidate in self.candidates if self._takes(row, candidate)]
            for number in range(settings.rounds):
                turn = number % max(1, len(takers))
                for candidate in takers[turn:] + takers[:turn]:
                    self._measure(row, candidate, number)
                if row.figure != "cpu":
                    # Neither memory nor lost requests drift with the minute.
                    break

    def _takes(self, row, candidate):
        if row.post_quantum and not candidate.post_quantum:
            return False
        if row.figure == "reload" and not candidate.can_reload():
            return False
        settings = self.world.settings
        # Whoever names a candidate wants to see it in every row.
        return settings.pair or candidate.name in settings.named or candidate.name in row.candidates

    def _measure(self, row, candidate, number):
        self.world.processes.check()
        figure = FIGURES[row.figure](self.world, candidate, row)
        self.figures.setdefault(row.name, {}).setdefault(candidate.name, []).append(figure)
        note = f"  FAILED {figure['why']}" if figure.get("failures") else ""
        print(f"{row.name:14} {number + 1} {candidate.name:16} {figure['value']:10.1f}{note}", file=sys.stderr)

    def median(self, row, candidate, key="value"):
        """The median over rounds, or nothing where it was not measured."""
        found = [figure[key] for figure in self.figures.get(row, {}).get(candidate, ()) if figure.get(key) is not None]
        return statistics.median(found) if found else None

    def spread(self, row, candidate):
        """How far the rounds lie apart, as a part of the median: smaller differences say nothing."""
        found = [figure["value"] for figure in self.figures[row][candidate]]
        return (max(found) - min(found)) / statistics.median(found) if len(found) > 1 else None

    def parts(self, row, candidate):
        """The medians of each part."""
        figures = self.figures.get(row, {}).get(candidate, ())
        names = figures[0]["parts"] if figures else ()
        return {name: statistics.median(figure["parts"][name] for figure in figures) for name in names}

    def total(self, row, candidate, key):
        return sum(figure.get(key) or 0 for figure in self.figures.get(row, {}).get(candidate, ()))
