//! What is seen while a run goes on: a screen where there is a terminal, a line a second where there is none.

use std::io::{self, IsTerminal, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ratatui::crossterm::event::{self, Event, KeyCode, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Style};
use ratatui::text::Line;
use ratatui::widgets::{Block, Gauge, Paragraph, Sparkline};
use ratatui::{DefaultTerminal, Frame};

use crate::rate::{OVERHEAD, Scaled};
use crate::receive::Glance;
use crate::send::Sent;
use crate::session::Live;
use crate::summary::Time;

/// How often the screen is drawn.
const TICK: Duration = Duration::from_millis(200);

/// What is watched, and until when.
pub struct Watched<'w> {
    /// What goes on.
    pub live: &'w Live,
    /// Set here when a key says so.
    pub stop: &'w AtomicBool,
    /// Whether it is over.
    pub is_over: &'w dyn Fn() -> bool,
    /// How long it will take, if that is known.
    pub expected: Option<Duration>,
    /// For the head of the screen.
    pub title: String,
}

/// Watches until it is over; lines are for those who want them, or have no terminal.
pub fn watch(watched: &Watched<'_>, plain: bool) {
    if plain || !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return lines(watched);
    }
    let mut terminal = ratatui::init();
    let shown = screen(watched, &mut terminal);
    ratatui::restore();
    if shown.is_err() {
        lines(watched);
    }
}

/// Figures since the look before.
#[derive(Debug, Clone, Copy, Default)]
struct Look {
    sent: Sent,
    received: Glance,
}

/// What happened between two looks.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Rates {
    sent: f64,
    received: f64,
    bits: f64,
    latency: Option<f64>,
}

impl Look {
    fn at(live: &Live) -> Self {
        Self { sent: live.progress.sent(), received: live.progress.received() }
    }

    /// A new trial begins at 0, so figures may fall.
    fn since(&self, before: &Self, seconds: f64) -> Rates {
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        let (now, then) = (&self.received, &before.received);
        let frames = rate(now.frames, then.frames);
        let packets = now.unique.saturating_sub(then.unique);
        let waited = now.latencies.saturating_sub(then.latencies);
        Rates {
            sent: rate(self.sent.frames, before.sent.frames),
            received: frames,
            bits: rate(now.bytes, then.bytes) * 8.0 + frames * (4 + OVERHEAD) as f64 * 8.0,
            latency: (packets > 0).then(|| waited as f64 / packets as f64),
        }
    }
}

fn lines(watched: &Watched<'_>) {
    let start = Instant::now();
    let (mut before, mut looked) = (Look::default(), start);
    while !(watched.is_over)() {
        std::thread::sleep(Duration::from_millis(20));
        let seconds = looked.elapsed().as_secs_f64();
        if seconds >= 1.0 {
            let look = Look::at(watched.live);
            let text = one_line(
                start.elapsed(),
                &watched.live.stage(),
                &look,
                look.since(&before, seconds),
            );
            let _ = writeln!(io::stderr(), "{text}");
            (before, looked) = (look, Instant::now());
        }
    }
}

fn one_line(elapsed: Duration, stage: &str, look: &Look, rates: Rates) -> String {
    let latency =
        rates.latency.map_or(String::new(), |latency| format!(", latency {}", Time(latency)));
    format!(
        "{:>5} s  {stage}: sends {}pps, receives {}pps ({}bit/s on the wire){latency}; reordered {}, duplicates {}",
        elapsed.as_secs(),
        Scaled(rates.sent),
        Scaled(rates.received),
        Scaled(rates.bits),
        look.received.reordered,
        look.received.duplicates
    )
}

fn screen(watched: &Watched<'_>, terminal: &mut DefaultTerminal) -> io::Result<()> {
    let start = Instant::now();
    let (mut before, mut looked) = (Look::default(), start);
    let mut history: Vec<u64> = vec![];
    while !(watched.is_over)() {
        let look = Look::at(watched.live);
        let rates = look.since(&before, looked.elapsed().as_secs_f64().max(1e-3));
        (before, looked) = (look, Instant::now());
        history.push(rates.received as u64);
        terminal.draw(|frame| draw(frame, watched, start.elapsed(), &look, rates, &history))?;
        if event::poll(TICK)? && is_goodbye(&event::read()?) {
            watched.stop.store(true, Ordering::Relaxed);
        }
    }
    Ok(())
}

/// A terminal in raw mode sends no signal for Ctrl-C.
fn is_goodbye(event: &Event) -> bool {
    let Event::Key(key) = event else { return false };
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    matches!(key.code, KeyCode::Char('q') | KeyCode::Esc)
        || control && key.code == KeyCode::Char('c')
}

fn draw(
    frame: &mut Frame<'_>,
    watched: &Watched<'_>,
    elapsed: Duration,
    look: &Look,
    rates: Rates,
    history: &[u64],
) {
    let rows =
        [Constraint::Length(3), Constraint::Length(8), Constraint::Min(3), Constraint::Length(1)];
    let [top, middle, plot, bottom] = Layout::vertical(rows).areas(frame.area());
    let share = watched
        .expected
        .map_or(0.0, |expected| elapsed.as_secs_f64() / expected.as_secs_f64().max(1e-3));
    let label = format!("{} s  {}", elapsed.as_secs(), watched.live.stage());
    let gauge = Gauge::default()
        .block(Block::bordered().title(watched.title.as_str()))
        .gauge_style(Style::new().fg(Color::Blue))
        .ratio(share.clamp(0.0, 1.0))
        .label(label);
    frame.render_widget(gauge, top);
    let latency = rates.latency.map_or("-".into(), |latency| Time(latency).to_string());
    let under_way = look.sent.frames.saturating_sub(look.received.unique);
    let text = vec![
        Line::from(format!("sends     {}pps   {} in all", Scaled(rates.sent), look.sent.frames)),
        Line::from(format!(
            "receives  {}pps   {} in all",
            Scaled(rates.received),
            look.received.frames
        )),
        Line::from(format!("          {}bit/s on the wire", Scaled(rates.bits))),
        Line::from(format!(
            "lost or under way {under_way}   reordered {}   duplicates {}   of others {}",
            look.received.reordered, look.received.duplicates, look.received.foreign
        )),
        Line::from(format!("latency   {latency} (mean since the last look)")),
        Line::from(format!("refused   {} times the port's queue was full", look.sent.refusals)),
    ];
    frame.render_widget(Paragraph::new(text).block(Block::bordered().title("now")), middle);
    let width = usize::from(plot.width.saturating_sub(2));
    let recent = &history[history.len().saturating_sub(width)..];
    let sparkline = Sparkline::default()
        .block(Block::bordered().title("received packets a second"))
        .style(Style::new().fg(Color::Blue))
        .data(recent);
    frame.render_widget(sparkline, plot);
    frame.render_widget(Paragraph::new("q or Ctrl-C: stop, and report what there is"), bottom);
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::crossterm::event::KeyEvent;

    use super::*;

    fn looks() -> (Look, Look) {
        let sent = |frames| Sent { frames, ..Sent::default() };
        let received = |frames, latencies| Glance {
            frames,
            unique: frames,
            bytes: frames * 60,
            latencies,
            ..Glance::default()
        };
        let before = Look { sent: sent(1000), received: received(900, 900_000) };
        (before, Look { sent: sent(3000), received: received(2900, 4_900_000) })
    }

    #[test]
    fn rates_are_those_between_two_looks() {
        let (before, now) = looks();
        let rates = now.since(&before, 2.0);
        assert_eq!(
            rates,
            Rates { sent: 1000.0, received: 1000.0, bits: 672_000.0, latency: Some(2000.0) }
        );
        assert_eq!(before.since(&now, 1.0).sent, 0.0, "a new trial begins at 0");
        let line = one_line(Duration::from_secs(2), "sending", &now, rates);
        assert_eq!(
            line,
            "    2 s  sending: sends 1.000 kpps, receives 1.000 kpps (672.000 kbit/s on the wire), latency 2.00 µs; \
             reordered 0, duplicates 0"
        );
    }

    #[test]
    fn the_screen_shows_progress_and_rates() {
        let (before, now) = looks();
        let (live, stop) = (Live::default(), AtomicBool::new(false));
        let watched = Watched {
            live: &live,
            stop: &stop,
            is_over: &|| false,
            expected: Some(Duration::from_secs(10)),
            title: "pktgen run".into(),
        };
        let mut terminal = Terminal::new(TestBackend::new(80, 20)).unwrap();
        let rates = now.since(&before, 2.0);
        terminal
            .draw(|frame| draw(frame, &watched, Duration::from_secs(5), &now, rates, &[1, 5, 3]))
            .unwrap();
        let shown = format!("{}", terminal.backend());
        for text in
            ["pktgen run", "5 s", "receives  1.000 kpps", "lost or under way 100", "q or Ctrl-C"]
        {
            assert!(shown.contains(text), "{text}: {shown}");
        }
    }

    #[test]
    fn the_keys_that_stop_are_q_escape_and_control_c() {
        let key = |code, modifiers| is_goodbye(&Event::Key(KeyEvent::new(code, modifiers)));
        assert!(
            key(KeyCode::Char('q'), KeyModifiers::NONE) && key(KeyCode::Esc, KeyModifiers::NONE)
        );
        assert!(
            key(KeyCode::Char('c'), KeyModifiers::CONTROL)
                && !key(KeyCode::Char('c'), KeyModifiers::NONE)
        );
    }
}
