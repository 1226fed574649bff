//! What the pipeline asks of a packet buffer and of an interface's queues. Drivers give one
//! implementation, plain memory the other, so that everything from parse to rewrite runs in tests and
//! fuzzers as it runs on a card.

use arrayvec::ArrayVec;

/// How many frames a step handles at once.
pub const BURST: usize = 32;

/// Frames, or what a step made of them, on their way through the pipeline.
pub type Burst<T> = ArrayVec<T, BURST>;

/// One frame that its holder owns; dropping it gives the buffer back.
pub trait Frame: Sized {
    /// The frame, from its Ethernet header to its last byte.
    fn bytes(&self) -> &[u8];

    /// The same, to be changed.
    fn bytes_mut(&mut self) -> &mut [u8];

    /// Asks the processor to have the headers at hand soon.
    fn prefetch(&self) {}

    /// Makes room for `by` bytes in front; `false`, and no change, if the buffer has none left.
    fn grow_front(&mut self, by: usize) -> bool;

    /// Takes `by` bytes off the front; does nothing if there are fewer.
    fn shrink_front(&mut self, by: usize);

    /// Cuts the frame to `length` bytes; does nothing if it is shorter.
    fn truncate(&mut self, length: usize);

    /// Makes the frame `by` bytes longer, whatever they hold; `false`, and no change, if the buffer has no room
    /// left behind it.
    fn grow_back(&mut self, by: usize) -> bool;

    /// The VLAN tag that the card took off, if it did.
    fn stripped_tag(&self) -> Option<u16>;

    /// Whether all bytes lie in one buffer. If not, [`Frame::bytes`] shows the first part.
    fn is_in_one_piece(&self) -> bool;
}

/// One interface's queues, as one worker owns them.
pub trait Link {
    /// The frames that it carries.
    type Frame: Frame;

    /// Adds the frames that have come, as many as there is room for.
    fn receive(&mut self, into: &mut Burst<Self::Frame>);

    /// Hands frames to the wire in order; those taken leave the front of the list.
    fn transmit<const N: usize>(&mut self, from: &mut ArrayVec<Self::Frame, N>);

    /// A new frame with these bytes; `None` if no buffer is free or they do not fit one.
    fn allocate(&mut self, bytes: &[u8]) -> Option<Self::Frame>;
}

#[cfg(feature = "dpdk")]
mod dpdk {
    use dpdk_sys::Mbuf;

    use super::Frame;

    impl Frame for Mbuf {
        #[inline]
        fn bytes(&self) -> &[u8] {
            Mbuf::bytes(self)
        }

        #[inline]
        fn bytes_mut(&mut self) -> &mut [u8] {
            Mbuf::bytes_mut(self)
        }

        #[inline]
        fn prefetch(&self) {
            Mbuf::prefetch(self);
        }

        #[inline]
        fn grow_front(&mut self, by: usize) -> bool {
            self.prepend(by).is_some()
        }

        #[inline]
        fn shrink_front(&mut self, by: usize) {
            self.trim_front(by);
        }

        #[inline]
        fn truncate(&mut self, length: usize) {
            Mbuf::truncate(self, length);
        }

        #[inline]
        fn grow_back(&mut self, by: usize) -> bool {
            self.append(by).is_some()
        }

        #[inline]
        fn stripped_tag(&self) -> Option<u16> {
            self.stripped_vlan()
        }

        #[inline]
        fn is_in_one_piece(&self) -> bool {
            !self.is_chained()
        }
    }
}
