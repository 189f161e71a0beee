//! What a connection is made with, and what it tells about itself.

use std::time::Duration;

/// What all connections of a stack have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Largest IP packet in bytes, in both directions.
    pub mtu: u16,
    /// Bytes of each buffer of a new connection.
    pub initial_buffer: u32,
    /// Most bytes that wait for acknowledgement; the buffer grows to it as the congestion window does.
    pub send_buffer: u32,
    /// Most bytes that wait for the reader: the largest window. It grows to it with what the reader takes.
    pub recv_buffer: u32,
    /// An idle connection asks its peer for a sign of life after this time.
    pub keepalive: Duration,
    /// The connection ends when something waits for an answer for this time (RFC 5482).
    pub user_timeout: Duration,
    /// How long an acknowledgement may wait for company (RFC 9293, section 3.8.6.3: less than 500 ms).
    pub ack_delay: Duration,
    /// The least margin of the retransmission timeout above the round trip.
    pub min_rto: Duration,
    /// How often a SYN is repeated, after 1, 2, 4… s.
    pub syn_retries: u8,
    /// How long TIME-WAIT lasts.
    pub time_wait: Duration,
    /// Offer and accept window scaling (RFC 7323, section 2).
    pub window_scaling: bool,
    /// Offer and accept timestamps (RFC 7323, section 3).
    pub timestamps: bool,
    /// Offer and accept selective acknowledgements (RFC 2018).
    pub sack: bool,
    /// Spread windows over the round trip.
    pub pacing: bool,
    /// Verify the checksums of received segments. A tunnel has authenticated them already.
    pub verify_checksums: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mtu: 1420,
            initial_buffer: 128 << 10,
            send_buffer: 4 << 20,
            recv_buffer: 4 << 20,
            keepalive: Duration::from_secs(60),
            user_timeout: Duration::from_secs(200),
            ack_delay: Duration::from_millis(40),
            min_rto: Duration::from_millis(200),
            syn_retries: 6,
            time_wait: Duration::from_secs(30),
            window_scaling: true,
            timestamps: true,
            sack: true,
            pacing: true,
            verify_checksums: false,
        }
    }
}

/// The states of RFC 9293, section 3.3.2. There is no LISTEN: a connection begins with a SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Our SYN waits for the peer's.
    SynSent,
    /// Both SYNs are there, ours is not acknowledged.
    SynReceived,
    /// Open in both directions.
    Established,
    /// Our FIN is on the way.
    FinWait1,
    /// Our FIN is acknowledged.
    FinWait2,
    /// The peer's FIN is there.
    CloseWait,
    /// Both FINs are there, ours is not acknowledged, and the peer did not know of it.
    Closing,
    /// Both FINs are there, the peer's came first, ours is not acknowledged.
    LastAck,
    /// Over; late segments are still answered.
    TimeWait,
    /// Over.
    Closed,
}

/// How scarce the memory is that all connections of a stack share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pressure {
    /// Buffers grow with need.
    #[default]
    None,
    /// Nothing new is promised beyond one page each way: windows close as they fill, and stay small.
    High,
    /// Also, what was promised before is dropped when it comes, if it begins beyond two pages and needs memory that is not held.
    /// The peer sends it again.
    Full,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Both streams are complete and acknowledged.
    Done,
    /// The peer answered our SYN with RST.
    Refused,
    /// The peer sent RST.
    Reset,
    /// The peer did not answer: our SYN, our bytes, our probes.
    TimedOut,
    /// By [`abort`](super::Connection::abort).
    Aborted,
}

/// What passed, and why things were dropped or repeated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Segments received.
    pub received: u32,
    /// Segments sent.
    pub sent: u32,
    /// Segments sent again.
    pub retransmitted: u32,
    /// Fast recoveries begun.
    pub recoveries: u32,
    /// Retransmission timeouts.
    pub timeouts: u32,
    /// Tail loss probes sent.
    pub tail_probes: u32,
    /// Probes of a closed window sent.
    pub window_probes: u32,
    /// Keepalive probes sent.
    pub keepalives: u32,
    /// Recoveries and timeouts that were taken back.
    pub undone: u32,
    /// Segments with bytes that were answered and not taken: outside of the window, too old, or otherwise wrong. Also, reports of
    /// the peer that bytes of ours came twice (RFC 2883).
    pub duplicates: u32,
    /// Dropped: an old timestamp, or none (PAWS).
    pub old_timestamps: u32,
    /// Dropped: outside of the window.
    pub out_of_window: u32,
    /// Dropped: acknowledges what was never sent, or what is too old (RFC 5961).
    pub bad_acks: u32,
    /// Dropped: bytes ahead of too many holes.
    pub too_many_holes: u32,
    /// Dropped: a wrong checksum, another connection's ports, or no TCP segment.
    pub malformed: u32,
    /// Answers to stray segments that were not sent because there were too many.
    pub answers_limited: u32,
}
