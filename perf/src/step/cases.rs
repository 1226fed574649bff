//! What suite `step` measures, and which part of it somebody has asked for.

use clap::{Args, ValueEnum};

use super::run::described;
use super::special::spare_for_new_flows;
use crate::table;
use crate::traffic::{Direction, Family, Mode, Scene, Size};

/// One measurement of the whole pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    /// Services, servers and flows.
    pub scene: Scene,
    /// Which way packets go.
    pub direction: Direction,
    /// How long frames are.
    pub size: Size,
}

/// Another measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Special {
    /// The steps one by one.
    Stages(Case),
    /// How many flows can begin in a second, among others that there are.
    NewFlows(Scene),
    /// A table of 65,537 entries for 100 servers.
    Maglev,
    /// A configuration made and taken up.
    Publish,
    /// Memory that a flow takes.
    FlowMemory(Family),
}

impl Special {
    fn name(&self) -> String {
        let scene = |scene: &Scene| {
            let case = Case { scene: *scene, direction: Direction::Request, size: SIZES[0] };
            table::what(&described(&case))
        };
        match self {
            Self::Stages(case) => format!("stages {}", table::what(&described(case))),
            Self::NewFlows(it) => format!("new-flows {}", scene(it)),
            Self::Maglev => "step maglev".into(),
            Self::Publish => "step publish build-snapshot swap-snapshot".into(),
            Self::FlowMemory(family) => format!("step flow-memory {family:?}").to_lowercase(),
        }
    }
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// The whole pipeline
    Forward,
    /// Its steps one by one
    Stages,
    /// New flows among a million others
    NewFlows,
    /// A Maglev table of 65,537 entries for 100 servers
    Maglev,
    /// A configuration of 1,000 services with 10 servers each
    Publish,
    /// How many bytes of memory a flow takes
    FlowMemory,
}

/// What is to be measured.
#[derive(Debug, Clone, Default)]
pub struct Chosen {
    /// Of the whole pipeline. Those that share a scene follow each other.
    pub forward: Vec<Case>,
    /// And besides.
    pub special: Vec<Special>,
}

impl Chosen {
    /// Keeps what has `text` in its name, as the table shows it.
    pub fn retain(&mut self, text: &str) {
        self.forward.retain(|case| table::what(&described(case)).contains(text));
        self.special.retain(|special| special.name().contains(text));
    }

    /// How many measurements there are.
    pub fn len(&self) -> usize {
        self.forward.len() + self.special.len()
    }

    /// Whether there is nothing to measure.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What the flows of the largest scene take at most, in bytes.
    pub fn bytes_of_tables(&self) -> u64 {
        let special = self.special.iter().filter_map(|special| match special {
            Special::Stages(case) => Some((case.scene, 0)),
            Special::NewFlows(scene) => Some((*scene, spare_for_new_flows())),
            Special::Maglev | Special::Publish | Special::FlowMemory(_) => None,
        });
        let all = self.forward.iter().map(|case| (case.scene, 0)).chain(special);
        let bytes = |(scene, spare): (Scene, usize)| {
            let flow = if scene.family == Family::Ipv4 { 110 } else { 180 };
            (u64::from(scene.flows.max(100_000)) + spare as u64) * flow
        };
        all.map(bytes).max().unwrap_or_default()
    }
}

/// Which measurements to make; everything unless told.
#[derive(Debug, Clone, Default, Args)]
pub struct Selection {
    /// Only these kinds of measurement
    #[arg(long, value_delimiter = ',', value_enum)]
    pub case: Vec<Kind>,
    /// Only these modes
    #[arg(long, value_delimiter = ',', value_enum)]
    pub mode: Vec<Mode>,
    /// Only these families
    #[arg(long, value_delimiter = ',', value_enum)]
    pub family: Vec<Family>,
    /// Only these directions; replies there are in nat and snat alone
    #[arg(long, value_delimiter = ',', value_enum)]
    pub direction: Vec<Direction>,
    /// So many flows instead of 1, 1,000, 100,000, 1,000,000 and 10,000,000
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=20_000_000))]
    pub flows: Vec<u32>,
    /// Frames of so many bytes on the wire (64 to 1518), or imix
    #[arg(long, value_delimiter = ',')]
    pub size: Vec<Size>,
    /// So many services instead of 1 and 10,000
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub services: Vec<u32>,
}

/// Servers of each service.
fn servers(services: u32) -> u32 {
    if services > 1_000 { 2 } else { 10 }
}

const MODES: [Mode; 4] = [Mode::Dr, Mode::Nat, Mode::Snat, Mode::Tun];
const FAMILIES: [Family; 2] = [Family::Ipv4, Family::Ipv6];
const SIZES: [Size; 2] = [Size::Fixed(64), Size::Imix];
const FLOWS: [u32; 5] = [1, 1_000, 100_000, 1_000_000, 10_000_000];
/// With many services, so many flows.
const FLOWS_OF_MANY: u32 = 1_000_000;
const MANY_SERVICES: u32 = 10_000;

/// What `selection` asks for. Without a kind it is everything, or the whole pipeline if anything else is named.
pub fn chosen(selection: &Selection, quick: bool) -> Chosen {
    let kinds = match (&selection.case[..], selection.names_a_scene()) {
        ([], true) => &[Kind::Forward][..],
        ([], false) => Kind::value_variants(),
        (named, _) => named,
    };
    let mut chosen = Chosen::default();
    for kind in kinds {
        match kind {
            Kind::Forward => chosen.forward = forward(selection, quick),
            Kind::Stages => chosen.special.extend(stages(selection, quick)),
            Kind::NewFlows => chosen.special.extend(new_flows(selection, quick)),
            Kind::Maglev => chosen.special.push(Special::Maglev),
            Kind::Publish => chosen.special.push(Special::Publish),
            Kind::FlowMemory => chosen.special.extend(FAMILIES.map(Special::FlowMemory)),
        }
    }
    chosen
}

impl Selection {
    fn names_a_scene(&self) -> bool {
        let named = [self.mode.len(), self.family.len(), self.flows.len(), self.services.len()];
        named.iter().any(|it| *it > 0) || !self.size.is_empty() || !self.direction.is_empty()
    }
}

/// The steps one by one, of frames of 64 bytes: with a thousand and with a million flows.
fn stages(selection: &Selection, quick: bool) -> Vec<Special> {
    let flows = if quick { &[1_000_000][..] } else { &[1_000, 1_000_000] };
    let narrow = Selection {
        flows: or(&selection.flows, flows).to_vec(),
        services: or(&selection.services, &[1]).to_vec(),
        size: or(&selection.size, &SIZES[..1]).to_vec(),
        family: or(&selection.family, if quick { &FAMILIES[..1] } else { &FAMILIES }).to_vec(),
        mode: or(&selection.mode, if quick { &MODES[..1] } else { &MODES }).to_vec(),
        ..selection.clone()
    };
    forward(&narrow, false).into_iter().map(Special::Stages).collect()
}

/// New flows among a million others.
fn new_flows(selection: &Selection, quick: bool) -> Vec<Special> {
    let narrow = Selection {
        flows: or(&selection.flows, &[FLOWS_OF_MANY]).to_vec(),
        services: or(&selection.services, &[1]).to_vec(),
        family: or(&selection.family, if quick { &FAMILIES[..1] } else { &FAMILIES }).to_vec(),
        mode: or(&selection.mode, if quick { &MODES[..1] } else { &MODES }).to_vec(),
        ..selection.clone()
    };
    let flows = or(&narrow.flows, &FLOWS).to_vec();
    scenes(&narrow, quick, &flows).into_iter().map(Special::NewFlows).collect()
}

fn forward(selection: &Selection, quick: bool) -> Vec<Case> {
    let flows = or(&selection.flows, if quick { &[1_000, 1_000_000] } else { &FLOWS });
    let sizes = or(&selection.size, if quick { &SIZES[..1] } else { &SIZES });
    let mut cases = Vec::new();
    for scene in scenes(selection, quick, flows) {
        for direction in [Direction::Request, Direction::Reply] {
            let there = direction == Direction::Request || scene.mode.translates();
            if !there || !or(&selection.direction, &[direction]).contains(&direction) {
                continue;
            }
            cases.extend(sizes.iter().map(|&size| Case { scene, direction, size }));
        }
    }
    cases
}

fn scenes(selection: &Selection, quick: bool, flows: &[u32]) -> Vec<Scene> {
    let mut scenes = Vec::new();
    for &mode in or(&selection.mode, &MODES) {
        for &family in or(&selection.family, &FAMILIES) {
            for &flows in flows {
                for &services in or(&selection.services, &[1, MANY_SERVICES]) {
                    let scene = Scene { mode, family, flows, services, servers: servers(services) };
                    if is_wanted(&scene, selection, quick) {
                        scenes.push(scene);
                    }
                }
            }
        }
    }
    scenes
}

/// Of all combinations, those that tell something new; what was named is always wanted.
fn is_wanted(scene: &Scene, selection: &Selection, quick: bool) -> bool {
    let named = !selection.services.is_empty() || !selection.flows.is_empty();
    let many = scene.services == MANY_SERVICES && selection.services.is_empty();
    if many && (scene.flows != FLOWS_OF_MANY || (quick && scene.mode != Mode::Dr)) {
        return false;
    }
    let is_usual = scene.family == Family::Ipv4 && scene.flows == FLOWS_OF_MANY;
    let of_few_words = is_usual || (scene.mode == Mode::Dr && !many);
    !quick || named || of_few_words
}

fn or<'a, T>(given: &'a [T], default: &'a [T]) -> &'a [T] {
    if given.is_empty() { default } else { given }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_every_mode_direction_family_number_of_flows_and_size() {
        let all = chosen(&Selection::default(), false).forward;
        // Six modes with direction, two families, five numbers of flows and one of many services, two sizes.
        assert_eq!(all.len(), 6 * 2 * (5 + 1) * 2);
        assert!(
            all.iter()
                .all(|case| case.direction == Direction::Request || case.scene.mode.translates())
        );
    }

    #[test]
    fn what_is_asked_for_is_all_that_is_measured() {
        let selection = Selection {
            mode: vec![Mode::Dr],
            family: vec![Family::Ipv4],
            flows: vec![1_000_000],
            size: vec![Size::Fixed(64)],
            services: vec![1],
            ..Selection::default()
        };
        for quick in [false, true] {
            let Chosen { forward, special } = chosen(&selection, quick);
            assert_eq!((forward.len(), special.len()), (1, 0));
        }
    }
}
