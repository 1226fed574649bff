use proptest::prelude::*;

use super::*;

const PORTS: Verdict = Verdict::Ports(40_000, 53);

fn datagram(identification: u32) -> Datagram {
    let address = |text: &str| text.parse().unwrap();
    Datagram::new((address("198.51.100.7"), address("192.0.2.1")), 17, identification)
}

fn datagram_v6(identification: u32) -> Datagram {
    let address = |text: &str| text.parse().unwrap();
    Datagram::new((address("2001:db8::7"), address("2001:db8::1")), 17, identification)
}

fn fragments() -> Fragments {
    Fragments::new(64, [3, 5])
}

fn at(milliseconds: u64) -> Moment {
    Moment::START.plus(Duration::from_millis(milliseconds))
}

fn piece(offset: u16, length: u16) -> Piece {
    Piece { offset, length, more: true }
}

fn last(offset: u16, length: u16) -> Piece {
    Piece { offset, length, more: false }
}

/// Any piece, first or later.
fn take(fragments: &mut Fragments, datagram: Datagram, piece: Piece, now: Moment) -> Verdict {
    match piece.offset {
        0 => fragments.first(datagram, (40_000, 53), piece, now),
        _ => fragments.later(datagram, piece, now),
    }
}

/// What becomes of one datagram's pieces in this order.
fn verdicts<const N: usize>(datagram: Datagram, pieces: [Piece; N]) -> [Verdict; N] {
    let mut fragments = fragments();
    pieces.map(|piece| take(&mut fragments, datagram, piece, at(0)))
}

#[test]
fn later_fragments_get_the_ports_of_the_first() {
    let pieces = [piece(0, 1480), last(2960, 7), piece(1480, 1480)];
    assert_eq!(verdicts(datagram(1), pieces), [PORTS; 3]);
    assert_eq!(verdicts(datagram_v6(1), pieces), [PORTS; 3]);
}

#[test]
fn a_fragment_before_the_first_is_unknown_and_changes_nothing() {
    let pieces = [last(1480, 8), piece(0, 1480), last(1480, 8)];
    assert_eq!(verdicts(datagram(1), pieces), [Verdict::Unknown, PORTS, PORTS]);
}

#[test]
fn datagrams_that_differ_in_any_part_of_the_key_are_not_mixed_up() {
    let mut fragments = fragments();
    assert_eq!(take(&mut fragments, datagram(1), piece(0, 8), at(0)), PORTS);
    let known = datagram(1);
    let [another, third] = [known.destination, known.source];
    for other in [
        Datagram { source: another, ..known },
        Datagram { destination: third, ..known },
        Datagram { protocol: 6, ..known },
        Datagram { identification: 2, ..known },
    ] {
        assert_eq!(fragments.later(other, last(8, 8), at(0)), Verdict::Unknown);
    }
}

#[test]
fn the_protocol_is_part_of_the_key_in_ipv4_alone() {
    let with = |Datagram { source, destination, .. }: Datagram, protocol| {
        Datagram::new((source, destination), protocol, 1)
    };
    assert_ne!(with(datagram(1), 6), with(datagram(1), 17));
    assert_eq!(with(datagram_v6(1), 6), with(datagram_v6(1), 17));
}

#[test]
fn an_overlap_condemns_the_datagram() {
    for wrong in [piece(8, 8), piece(8, 16), piece(16, 24), piece(32, 16), piece(24, 8)] {
        let pieces = [piece(0, 16), piece(24, 16), wrong, last(40, 8), piece(0, 16)];
        let fate = verdicts(datagram(1), pieces);
        assert_eq!(
            fate,
            [PORTS, PORTS, Verdict::Overlapping, Verdict::Overlapping, Verdict::Overlapping]
        );
    }
}

#[test]
fn data_beyond_the_end_or_another_end_condemns_the_datagram() {
    for wrong in [piece(48, 8), last(48, 8), last(16, 9), piece(32, 8), last(16, 8)] {
        let fate = verdicts(datagram(1), [piece(0, 8), last(24, 16), wrong]);
        assert_eq!(fate, [PORTS, PORTS, Verdict::Overlapping], "{wrong:?}");
    }
    let early_end = [piece(0, 8), piece(24, 16), last(16, 8)];
    assert_eq!(verdicts(datagram(1), early_end)[2], Verdict::Overlapping);
    let changed_its_mind = [piece(0, 8), piece(24, 16), last(24, 16)];
    assert_eq!(verdicts(datagram(1), changed_its_mind)[2], Verdict::Overlapping);
}

#[test]
fn a_duplicate_passes_in_ipv4_alone() {
    for again in [piece(0, 8), piece(16, 8), last(32, 5)] {
        let pieces = [piece(0, 8), piece(16, 8), last(32, 5), again];
        assert_eq!(verdicts(datagram(1), pieces), [PORTS; 4]);
        assert_eq!(verdicts(datagram_v6(1), pieces)[3], Verdict::Overlapping);
    }
}

#[test]
fn a_first_fragment_with_other_ports_condemns_the_datagram() {
    let mut fragments = fragments();
    assert_eq!(fragments.first(datagram(1), (40_000, 53), piece(0, 8), at(0)), PORTS);
    let other = fragments.first(datagram(1), (40_000, 54), piece(0, 8), at(0));
    assert_eq!(other, Verdict::Overlapping);
    assert_eq!(fragments.later(datagram(1), last(8, 8), at(0)), Verdict::Overlapping);
}

#[test]
fn what_no_datagram_can_have_is_malformed_and_changes_nothing() {
    let mut fragments = fragments();
    assert_eq!(take(&mut fragments, datagram(1), piece(0, 8), at(0)), PORTS);
    for wrong in
        [piece(8, 0), last(8, 0), piece(8, 9), piece(12, 8), last(65_512, 4), last(65_528, 100)]
    {
        assert_eq!(fragments.later(datagram(1), wrong, at(0)), Verdict::Malformed);
    }
    assert_eq!(fragments.later(datagram(1), piece(0, 8), at(0)), Verdict::Malformed);
    assert_eq!(fragments.first(datagram(1), (1, 2), piece(8, 8), at(0)), Verdict::Malformed);
    assert_eq!(fragments.later(datagram(1), last(65_512, 3), at(0)), PORTS);
    let longest = verdicts(datagram_v6(1), [piece(0, 8), last(65_528, 7)]);
    assert_eq!(longest, [PORTS, PORTS]);
}

#[test]
fn the_only_fragment_of_a_datagram_stands_for_itself() {
    let mut fragments = fragments();
    assert_eq!(take(&mut fragments, datagram_v6(1), piece(0, 8), at(0)), PORTS);
    let alone = fragments.first(datagram_v6(1), (1, 2), last(0, 4), at(0));
    assert_eq!(alone, Verdict::Ports(1, 2));
    assert_eq!(fragments.later(datagram_v6(1), last(8, 8), at(0)), PORTS);
}

#[test]
fn a_complete_datagram_is_forgotten() {
    let pieces = [piece(0, 8), last(8, 8), last(8, 8), piece(0, 16), last(16, 1)];
    assert_eq!(verdicts(datagram(1), pieces), [PORTS, PORTS, Verdict::Unknown, PORTS, PORTS]);
}

#[test]
fn a_datagram_is_forgotten_after_its_time() {
    let mut fragments = fragments();
    assert_eq!(take(&mut fragments, datagram(1), piece(0, 8), at(100)), PORTS);
    assert_eq!(take(&mut fragments, datagram(1), piece(8, 8), at(15_099)), PORTS);
    assert_eq!(take(&mut fragments, datagram(1), piece(16, 8), at(15_100)), Verdict::Unknown);
}

#[test]
fn a_datagram_in_more_parts_than_are_remembered_gets_no_further_part() {
    let mut fragments = fragments();
    let mut takes = |piece| take(&mut fragments, datagram(1), piece, at(0));
    for part in 0..16 {
        assert_eq!(takes(piece(part * 16, 8)), PORTS);
    }
    assert_eq!(takes(piece(1024, 8)), Verdict::Full);
    // What closes a gap still fits, and makes room.
    assert_eq!(takes(piece(24, 8)), PORTS);
    assert_eq!(takes(piece(1024, 8)), PORTS);
    assert_eq!(takes(piece(2048, 8)), Verdict::Full);
}

#[test]
fn the_longest_datagram_in_the_shortest_fragments_passes() {
    let mut fragments = fragments();
    for offset in (0..65_512).step_by(8) {
        assert_eq!(take(&mut fragments, datagram(1), piece(offset, 8), at(0)), PORTS);
    }
    assert_eq!(take(&mut fragments, datagram(1), last(65_512, 3), at(0)), PORTS);
    assert_eq!(take(&mut fragments, datagram(1), piece(8, 8), at(0)), Verdict::Unknown);
}

#[test]
fn a_full_table_lets_only_datagrams_go_that_had_their_time() {
    let mut fragments = Fragments::new(8, [3, 5]);
    for identification in 0..8 {
        let now = at(u64::from(identification));
        assert_eq!(take(&mut fragments, datagram(identification), piece(0, 8), now), PORTS);
    }
    assert_eq!(take(&mut fragments, datagram(8), piece(0, 8), at(999)), Verdict::Full);
    assert_eq!(take(&mut fragments, datagram(8), piece(0, 8), at(1_000)), PORTS);
    assert_eq!(take(&mut fragments, datagram(9), piece(0, 8), at(1_000)), Verdict::Full);
    assert_eq!(take(&mut fragments, datagram(0), last(8, 8), at(1_000)), Verdict::Unknown);
    for identification in 1..9 {
        assert_eq!(take(&mut fragments, datagram(identification), last(8, 8), at(1_000)), PORTS);
    }
}

#[test]
fn a_table_takes_about_as_many_datagrams_as_it_has_room_for() {
    let mut fragments = Fragments::new(1_024, [3, 5]);
    let fits = |&identification: &u32| {
        take(&mut fragments, datagram(identification), piece(0, 8), at(0)) == PORTS
    };
    assert!((0..1_024).filter(fits).count() > 900);
}

/// One datagram, byte by byte: what the table does with intervals.
struct Plain {
    bytes: Vec<bool>,
    pieces: Vec<Piece>,
    end: Option<usize>,
    condemned: bool,
}

impl Plain {
    fn take(&mut self, piece: Piece, tolerant: bool) -> Verdict {
        let range =
            usize::from(piece.offset)..usize::from(piece.offset) + usize::from(piece.length);
        let furthest = self.bytes.iter().rposition(|&byte| byte).map_or(0, |at| at + 1);
        let duplicate = tolerant && self.pieces.contains(&piece);
        let bad_end = match (self.end, piece.more) {
            (Some(end), true) => range.end >= end,
            (Some(end), false) => range.end != end,
            (None, true) => false,
            (None, false) => range.end < furthest,
        };
        let overlap = self.bytes[range.clone()].contains(&true) && !duplicate;
        self.condemned |= bad_end || overlap;
        if self.condemned {
            return Verdict::Overlapping;
        }
        if duplicate {
            return PORTS;
        }
        self.bytes[range.clone()].fill(true);
        let starts = |&at: &usize| self.bytes[at] && (at == 0 || !self.bytes[at - 1]);
        if (0..self.bytes.len()).filter(starts).count() > PARTS {
            self.bytes[range].fill(false);
            return Verdict::Full;
        }
        self.end = if piece.more { self.end } else { Some(range.end) };
        self.pieces.push(piece);
        PORTS
    }

    fn is_complete(&self) -> bool {
        self.end.is_some_and(|end| self.bytes[..end].iter().all(|&byte| byte))
    }
}

fn some_piece(units: u16) -> impl Strategy<Value = Piece> {
    let last_one = prop_oneof![9 => Just(None), 1 => (1u16..8).prop_map(Some)];
    (1..units, 1u16..3, last_one).prop_map(|(offset, length, end)| match end {
        Some(bytes) => last(offset * 8, bytes),
        None => piece(offset * 8, length * 8),
    })
}

proptest! {
    #[test]
    fn fragments_in_any_order_after_the_first_all_pass(
        lengths in prop::collection::vec(1u16..200, 1..15),
        tail in 1u16..1_600,
        seed in any::<u64>(),
        six in any::<bool>(),
    ) {
        let mut offset = 0;
        let mut pieces: Vec<Piece> = lengths.iter().map(|units| {
            let piece = piece(offset, units * 8);
            offset += units * 8;
            piece
        }).collect();
        pieces.push(last(offset, tail));
        let hash = Keyed::new([seed, 1]);
        pieces[1..].sort_by_key(|piece| hash.of([u64::from(piece.offset)]));
        let datagram = if six { datagram_v6(1) } else { datagram(1) };
        let mut fragments = fragments();
        for &piece in &pieces {
            prop_assert_eq!(take(&mut fragments, datagram, piece, at(0)), PORTS);
        }
        let forgotten = take(&mut fragments, datagram, last(offset, tail), at(0));
        prop_assert_eq!(forgotten, Verdict::Unknown);
    }

    #[test]
    fn one_datagram_fares_as_it_would_byte_by_byte(
        units in prop_oneof![Just(20u16), Just(100)],
        pieces in prop::collection::vec(some_piece(100), 1..60),
        six in any::<bool>(),
    ) {
        let datagram = if six { datagram_v6(1) } else { datagram(1) };
        let mut fragments = fragments();
        let mut plain = Plain { bytes: vec![false; 1_000], pieces: vec![], end: None, condemned: false };
        plain.take(piece(0, 8), !six);
        prop_assert_eq!(take(&mut fragments, datagram, piece(0, 8), at(0)), PORTS);
        for piece in pieces {
            let piece = Piece { offset: piece.offset % (units * 8) + 8, ..piece };
            // A duplicate is surely known for one only while nothing had to be merged; afterwards it may be taken for
            // an overlap, and what covers merged ones exactly for a duplicate.
            let tolerant = !six && plain.pieces.len() <= PARTS;
            let end = |it: &Piece| it.offset + it.length;
            let begins = plain.pieces.iter().any(|known| known.offset == piece.offset);
            let ends = plain.pieces.iter().any(|known| end(known) == end(&piece));
            if !six && !tolerant && begins && ends {
                continue;
            }
            let verdict = take(&mut fragments, datagram, piece, at(0));
            prop_assert_eq!(verdict, plain.take(piece, tolerant));
            if plain.is_complete() && !plain.condemned {
                break;
            }
        }
    }

    #[test]
    fn anything_at_all_is_answered(
        steps in prop::collection::vec((0u32..12, any::<(u16, u16, bool)>(), any::<bool>(), 0u64..2_000), 1..400),
    ) {
        let mut fragments = Fragments::new(8, [3, 5]);
        let mut now = at(0);
        for (identification, (offset, length, more), tame, later) in steps {
            now = now.plus(Duration::from_millis(later));
            let piece = Piece { offset, length, more };
            let tamed = Piece { offset: offset / 4_096 * 8, length: length / 8_192 * 8, more };
            take(&mut fragments, datagram(identification), if tame { tamed } else { piece }, now);
        }
    }
}
