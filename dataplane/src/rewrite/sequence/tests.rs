use std::collections::HashMap;

use proptest::prelude::*;

use super::Direction::{ToClient, ToServer};
use super::*;

const PLACE: u32 = 7;

fn table() -> Adjustments {
    Adjustments::new(8, [3, 5])
}

/// A table with 10 bytes at 1,000 to the client that became 15.
fn longer() -> Adjustments {
    let mut table = table();
    assert!(table.note(PLACE, ToClient, Replaced { at: 1_000, old: 10, new: 15 }));
    table
}

#[test]
fn numbers_of_other_connections_stay_as_they_are() {
    let mut table = longer();
    assert_eq!(table.sequence(8, ToClient, 2_000), 2_000);
    assert_eq!(table.acknowledgement(8, ToServer, 2_000), 2_000);
    assert!(!table.selective(8, ToServer, &mut [5, 10, 0, 0, 7, 0, 0, 0, 8, 0]));
}

#[test]
fn a_connection_that_was_begun_is_known_until_it_is_forgotten() {
    let mut table = Adjustments::new(2, [3, 5]);
    let begun = |ours| Begun { ours, theirs: 2, window: 3, mss: 4 };
    assert!(table.begin(1, begun(1)) && table.begin(2, begun(2)));
    assert!(!table.begin(3, begun(3)), "no room");
    assert_eq!([1, 2, 3].map(|place| table.begun(place)), [Some(begun(1)), Some(begun(2)), None]);
    assert!(table.set_initial(1, ToClient, 100));
    assert_eq!(table.sequence(1, ToClient, 7), 107);
    assert_eq!(table.begun(1), Some(begun(1)));
    table.remove(1);
    assert_eq!(table.begun(1), None);
    assert!(table.begin(3, begun(3)));
}

#[test]
fn what_was_kept_of_a_connection_can_be_put_back() {
    let mut table = longer();
    let before = table.entry(PLACE);
    assert!(table.note(PLACE, ToClient, Replaced { at: 1_010, old: 10, new: 15 }));
    assert_eq!(table.sequence(PLACE, ToClient, 2_000), 2_010);
    table.put_back(PLACE, before);
    assert_eq!(table.sequence(PLACE, ToClient, 2_000), 2_005);
    table.put_back(PLACE, None);
    assert_eq!(table.sequence(PLACE, ToClient, 2_000), 2_000);
    table.put_back(8, before);
    assert_eq!(table.sequence(8, ToClient, 2_000), 2_000, "nothing was known of it");
}

#[test]
fn what_comes_after_the_replaced_text_moves() {
    let mut table = longer();
    for (sent, received) in [(900, 900), (1_000, 1_000), (1_010, 1_015), (2_000, 2_005)] {
        assert_eq!(table.sequence(PLACE, ToClient, sent), received);
        assert_eq!(table.acknowledgement(PLACE, ToServer, received), sent);
        assert_eq!(table.sequence(PLACE, ToServer, sent), sent);
        assert_eq!(table.acknowledgement(PLACE, ToClient, sent), sent);
    }
}

#[test]
fn part_of_the_new_text_acknowledges_none_of_it() {
    let mut table = longer();
    for within in 1_001..1_015 {
        assert_eq!(table.acknowledgement(PLACE, ToServer, within), 1_000);
    }
}

#[test]
fn a_segment_sent_again_may_be_given_the_same_text_and_no_other() {
    let mut table = longer();
    let again = Replaced { at: 1_000, old: 10, new: 15 };
    assert!(table.note(PLACE, ToClient, again));
    assert!(!table.note(PLACE, ToClient, Replaced { new: 16, ..again }));
    assert!(!table.note(PLACE, ToClient, Replaced { old: 11, new: 16, ..again }));
    assert!(!table.note(PLACE, ToClient, Replaced { at: 1_005, ..again }));
    assert!(!table.note(PLACE, ToClient, Replaced { at: 900, ..again }));
    assert_eq!(table.sequence(PLACE, ToClient, 2_000), 2_005);
}

#[test]
fn a_text_of_the_same_length_leaves_the_numbers_alone() {
    let mut table = longer();
    assert!(table.note(PLACE, ToClient, Replaced { at: 1_500, old: 10, new: 10 }));
    assert_eq!(table.sequence(PLACE, ToClient, 1_000), 1_000);
    assert_eq!(table.acknowledgement(PLACE, ToServer, 1_508), 1_503);
}

#[test]
fn two_initial_sequence_numbers_are_reconciled() {
    let (ours, its_own) = (0x9000_0000u32, 0x1000_0000u32);
    let mut table = table();
    assert!(table.set_initial(PLACE, ToClient, ours.wrapping_sub(its_own).cast_signed()));
    assert_eq!(table.sequence(PLACE, ToClient, its_own + 1), ours + 1);
    assert_eq!(table.acknowledgement(PLACE, ToServer, ours + 1), its_own + 1);
    assert_eq!(
        table.acknowledgement(PLACE, ToServer, 5),
        its_own.wrapping_add(5).wrapping_sub(ours)
    );
}

#[test]
fn a_stream_may_go_on_for_longer_than_numbers_last() {
    let mut table = longer();
    let mut sent = 2_000u32;
    for _ in 0..100_000 {
        assert_eq!(table.sequence(PLACE, ToClient, sent), sent.wrapping_add(5));
        assert_eq!(table.acknowledgement(PLACE, ToServer, sent.wrapping_add(5)), sent);
        sent = sent.wrapping_add(123_457);
    }
    // The numbers of the text that was replaced once have come round.
    for sent in 990..1_030 {
        assert_eq!(table.sequence(PLACE, ToClient, sent), sent + 5);
        assert_eq!(table.acknowledgement(PLACE, ToServer, sent + 5), sent);
    }
    assert!(table.note(PLACE, ToClient, Replaced { at: 1_000, old: 10, new: 9 }));
    assert_eq!(table.sequence(PLACE, ToClient, 2_000), 2_004);
}

#[test]
fn selective_acknowledgements_are_mended_wherever_they_stand() {
    let block = |from: u32, to: u32| [from.to_be_bytes(), to.to_be_bytes()].concat();
    let with = |blocks: &[Vec<u8>]| {
        let blocks = blocks.concat();
        let timestamps = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];
        [&timestamps[..], &[1, 1, 5, 2 + blocks.len() as u8], &blocks, &[0, 5, 10]].concat()
    };
    let mut options = with(&[block(1_015, 1_500), block(900, 1_000)]);
    assert!(longer().selective(PLACE, ToServer, &mut options));
    assert_eq!(options, with(&[block(1_010, 1_495), block(900, 1_000)]));
    let mut options = with(&[block(900, 1_003), block(1_003, 1_020), block(1_003, 1_009)]);
    assert!(longer().selective(PLACE, ToServer, &mut options));
    assert_eq!(options, with(&[block(900, 1_000), block(1_010, 1_015), block(1_010, 1_010)]));
    let mut options = with(&[block(1_015, 1_500)]);
    assert!(longer().selective(PLACE, ToClient, &mut options), "mended by nothing");
    assert_eq!(options, with(&[block(1_015, 1_500)]));
}

#[test]
fn options_without_selective_acknowledgements_stay_as_they_are() {
    for options in [
        &[][..],
        &[0],
        &[1, 1, 1],
        &[2, 4, 5, 180, 4, 2],
        &[5, 2],
        &[5, 9, 0, 0, 7, 0, 0, 0, 8],
        &[5, 10, 0, 0, 7, 0, 0, 0, 8],
        &[5],
        &[5, 0, 0, 0, 7, 0, 0, 0, 8, 0],
        &[2, 0, 5, 10, 0, 0, 7, 0, 0, 0, 8, 0],
        &[0, 5, 10, 0, 0, 7, 0, 0, 0, 8, 0],
    ] {
        let mut mended = options.to_vec();
        assert!(!longer().selective(PLACE, ToServer, &mut mended), "{options:?}");
        assert_eq!(mended, options);
    }
}

#[test]
fn a_full_table_takes_no_more_until_one_goes() {
    let mut table = Adjustments::new(2, [3, 5]);
    assert!(table.set_initial(1, ToServer, 1) && table.set_initial(2, ToServer, 2));
    assert!(!table.set_initial(3, ToServer, 3));
    assert!(!table.note(3, ToServer, Replaced { at: 1, old: 1, new: 2 }));
    assert!(table.set_initial(2, ToServer, 4), "it has its room");
    table.remove(1);
    table.remove(1);
    assert!(table.set_initial(3, ToServer, 3));
    assert_eq!([1, 2, 3].map(|place| table.sequence(place, ToServer, 10)), [10, 14, 13]);
    assert!(!Adjustments::new(0, [3, 5]).set_initial(1, ToServer, 1));
}

/// Numbers that matter: anywhere, and where they wrap.
fn number() -> impl Strategy<Value = u32> {
    let near_the_wrap = (0u32..8_000).prop_map(|before| 0u32.wrapping_sub(before));
    prop_oneof![any::<u32>(), near_the_wrap, Just(1u32 << 31)]
}

/// Gap before it, old and new length.
fn replaced() -> impl Strategy<Value = (u16, u16, u16)> {
    (1u16..2_000, 0u16..70, 0u16..70).prop_filter("changes something", |(_, old, new)| old != new)
}

proptest! {
    #[test]
    fn both_ends_count_right_whatever_is_replaced(
        begin in number(),
        delta in number(),
        all in prop::collection::vec(replaced(), 1..12),
        steps in prop::collection::vec(0u32..4_000, 1..20),
    ) {
        let mut table = table();
        table.set_initial(PLACE, ToServer, delta.cast_signed());
        // Where the stream has come to: what it is for the sender, and what for the receiver.
        let (mut sent, mut received) = (begin, begin.wrapping_add(delta));
        let mut earlier = None;
        for (gap, old, new) in all {
            let (from, from_received) = (sent, received);
            let at = sent.wrapping_add(gap.into());
            let at_received = received.wrapping_add(gap.into());
            let replaced = Replaced { at, old, new };
            (sent, received) = (at.wrapping_add(old.into()), at_received.wrapping_add(new.into()));
            prop_assert!(table.note(PLACE, ToServer, replaced));
            for again in 0..2 {
                // From the text replaced before to this one, and from there on.
                for &step in &steps {
                    let before = step % (u32::from(gap) + 1);
                    let numbers = (from.wrapping_add(before), from_received.wrapping_add(before));
                    prop_assert_eq!(table.sequence(PLACE, ToServer, numbers.0), numbers.1);
                    if before < u32::from(gap) || new > 0 {
                        prop_assert_eq!(table.acknowledgement(PLACE, ToClient, numbers.1), numbers.0);
                    }
                    // Without an old text, the first byte after it is the one before which it stands.
                    let after = step + u32::from(old == 0);
                    let numbers = (sent.wrapping_add(after), received.wrapping_add(after));
                    prop_assert_eq!(table.sequence(PLACE, ToServer, numbers.0), numbers.1);
                    prop_assert_eq!(table.acknowledgement(PLACE, ToClient, numbers.1), numbers.0);
                }
                for within in 1..u32::from(new) {
                    let within = at_received.wrapping_add(within);
                    prop_assert_eq!(table.acknowledgement(PLACE, ToClient, within), at);
                }
                prop_assert!(table.note(PLACE, ToServer, replaced), "again: {}", again);
                if let Some(earlier) = earlier {
                    prop_assert!(!table.note(PLACE, ToServer, earlier));
                }
            }
            earlier = Some(replaced);
        }
    }

    #[test]
    fn the_table_agrees_with_a_plain_map(steps in prop::collection::vec((0u32..24, any::<i32>(), any::<bool>()), 1..300)) {
        let mut table = Adjustments::new(12, [3, 5]);
        let mut map = HashMap::new();
        for (place, delta, remove) in steps {
            if remove {
                table.remove(place);
                map.remove(&place);
            } else {
                let fits = map.contains_key(&place) || map.len() < 12;
                prop_assert_eq!(table.set_initial(place, ToServer, delta), fits);
                if fits {
                    map.insert(place, delta);
                }
            }
            for place in 0..24 {
                let delta = map.get(&place).copied().unwrap_or(0);
                prop_assert_eq!(table.sequence(place, ToServer, 5), 5u32.wrapping_add_signed(delta));
            }
        }
    }

    #[test]
    fn any_options_at_all_keep_their_shape(
        mut options in prop::collection::vec(prop_oneof![Just(5u8), Just(10), Just(18), Just(1), any::<u8>()], 0..41),
        delta in number(),
    ) {
        let mut table = table();
        table.set_initial(PLACE, ToClient, delta.cast_signed());
        let before = options.clone();
        table.selective(PLACE, ToServer, &mut options);
        table.set_initial(PLACE, ToClient, delta.cast_signed().wrapping_neg());
        table.selective(PLACE, ToServer, &mut options);
        prop_assert_eq!(before, options, "there and back");
    }
}
