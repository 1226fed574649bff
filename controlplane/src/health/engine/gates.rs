//! Who waits to be asked, and how many are. A question that waits is not under way: that it is not asked says nothing
//! about its server.

use std::collections::BTreeSet;

use tokio::time::Instant;

use super::QuestionId;

/// How many questions are under way at once over the network. Each has a connection, of which the in-band stack opens
/// 8,192 for everybody, of some 12 KiB.
pub const MOST_UNDER_WAY: usize = 7_168;
/// How many of those to servers that are not well, which may all hang.
pub const MOST_IN_VAIN: usize = 4_096;
/// How many scripts run at once.
pub const MOST_SCRIPTS: usize = 8;
/// How many of those for servers that are not well.
pub const MOST_SCRIPTS_IN_VAIN: usize = 4;

/// Where a question belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// It runs a program, and takes no connection.
    pub is_script: bool,
    /// Its server is known not to be well.
    pub in_vain: bool,
}

/// All that wait, and how many are under way.
pub struct Gates {
    network: Gate,
    scripts: Gate,
}

struct Gate {
    most: usize,
    most_in_vain: usize,
    well: Line,
    in_vain: Line,
}

#[derive(Default)]
struct Line {
    /// Whoever is due, since when, the first one first.
    due: BTreeSet<(Instant, QuestionId)>,
    under_way: usize,
}

impl Default for Gates {
    fn default() -> Self {
        let gate = |most, most_in_vain| Gate {
            most,
            most_in_vain,
            well: Line::default(),
            in_vain: Line::default(),
        };
        Self {
            network: gate(MOST_UNDER_WAY, MOST_IN_VAIN),
            scripts: gate(MOST_SCRIPTS, MOST_SCRIPTS_IN_VAIN),
        }
    }
}

impl Gates {
    /// A question is due.
    pub fn line_up(&mut self, place: Place, since: Instant, id: QuestionId) {
        self.line(place).due.insert((since, id));
    }

    /// A question that was due is not asked any more.
    pub fn leave(&mut self, place: Place, since: Instant, id: QuestionId) {
        self.line(place).due.remove(&(since, id));
    }

    /// The next one that may be asked, which is under way from now on.
    pub fn next(&mut self) -> Option<QuestionId> {
        self.scripts.next().or_else(|| self.network.next())
    }

    /// A question is under way no more.
    pub fn finish(&mut self, place: Place) {
        self.line(place).under_way -= 1;
    }

    /// How many are due and not under way, and since when the first of them is.
    pub fn waiting(&self) -> (usize, Option<Instant>) {
        let lines = [&self.network, &self.scripts].into_iter().flat_map(Gate::lines);
        lines.fold((0, None), |(count, first), line| {
            let since = line.due.first().map(|&(since, _)| since);
            (count + line.due.len(), first.into_iter().chain(since).min())
        })
    }

    fn line(&mut self, place: Place) -> &mut Line {
        let gate = if place.is_script { &mut self.scripts } else { &mut self.network };
        if place.in_vain { &mut gate.in_vain } else { &mut gate.well }
    }
}

impl Gate {
    fn lines(&self) -> [&Line; 2] {
        [&self.well, &self.in_vain]
    }

    fn next(&mut self) -> Option<QuestionId> {
        if self.well.under_way + self.in_vain.under_way >= self.most {
            return None;
        }
        let line = match self.well.due.is_empty() {
            false => &mut self.well,
            true if self.in_vain.under_way < self.most_in_vain => &mut self.in_vain,
            true => return None,
        };
        let (_, id) = line.due.pop_first()?;
        line.under_way += 1;
        Some(id)
    }
}
