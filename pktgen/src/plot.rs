//! Plots as SVG that stands inside a page: no script, no font file, nothing from elsewhere.

use plotters::prelude::*;

/// Values along an axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    /// What the values are, with their unit.
    pub name: String,
    /// Whether each step is ten times the one before; values of 0 and below are then left out.
    pub logarithmic: bool,
    /// Whether the axis begins at 0 in any case; of no meaning with `logarithmic`.
    pub from_zero: bool,
}

impl Axis {
    /// From 0 on, in equal steps.
    pub fn linear(name: impl Into<String>) -> Self {
        Self { name: name.into(), logarithmic: false, from_zero: true }
    }

    /// In steps of ten times the one before.
    pub fn logarithmic(name: impl Into<String>) -> Self {
        Self { name: name.into(), logarithmic: true, from_zero: false }
    }

    /// Where a value lies, if it can.
    fn place(&self, value: f64) -> Option<f64> {
        let place = if self.logarithmic { value.log10() } else { value };
        place.is_finite().then_some(place)
    }

    /// The ends of the axis for these places, with something between them.
    fn ends(&self, places: impl Iterator<Item = f64>) -> (f64, f64) {
        let (mut least, mut most) = places
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), place| {
                (least.min(place), most.max(place))
            });
        if !least.is_finite() {
            (least, most) = (0.0, 1.0);
        }
        if self.logarithmic {
            (least, most) = (least.floor(), most.ceil());
        } else if self.from_zero {
            (least, most) = (least.min(0.0), most + (most - least.min(0.0)) * 0.05);
        }
        if most - least < 1e-9 { (least, least + 1.0) } else { (least, most) }
    }

    fn label(&self, place: f64) -> String {
        let value = if self.logarithmic { 10f64.powf(place) } else { place };
        let (value, unit) = match value.abs() {
            1e9.. => (value / 1e9, "G"),
            1e6.. => (value / 1e6, "M"),
            1e3.. => (value / 1e3, "k"),
            _ => (value, ""),
        };
        let text = format!("{value:.3}");
        let text = text.trim_end_matches('0').trim_end_matches('.');
        format!("{text}{unit}")
    }
}

/// Points that belong together.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// For the legend.
    pub name: String,
    /// In the order in which they are joined.
    pub points: Vec<(f64, f64)>,
    /// Whether each point has a dot.
    pub dots: bool,
}

/// Lines between two axes.
#[derive(Debug, Clone, PartialEq)]
pub struct Plot {
    /// What is shown.
    pub title: String,
    /// To the right.
    pub x: Axis,
    /// Upwards.
    pub y: Axis,
    /// Each in a colour of its own.
    pub lines: Vec<Line>,
}

/// Width and height, in pixels.
const SIZE: (u32, u32) = (820, 400);

/// Told apart by people who do not see all colours (Okabe and Ito, 2008).
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
];

impl Plot {
    /// As an `<svg>` element.
    pub fn svg(&self) -> String {
        let mut svg = String::new();
        // Writing into a string cannot fail; what was drawn until a mistake of the library is shown.
        let _ = self.draw(&mut svg);
        svg
    }

    fn draw(&self, svg: &mut String) -> Result<(), Box<dyn std::error::Error>> {
        let lines: Vec<(usize, Vec<(f64, f64)>)> =
            self.lines.iter().map(|line| self.placed(line)).enumerate().collect();
        let all = || lines.iter().flat_map(|(_, points)| points);
        let (left, right) = self.x.ends(all().map(|point| point.0));
        let (bottom, top) = self.y.ends(all().map(|point| point.1));
        let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(&self.title, ("sans-serif", 18))
            .margin(14)
            .x_label_area_size(44)
            .y_label_area_size(72)
            .build_cartesian_2d(left..right, bottom..top)?;
        chart
            .configure_mesh()
            .x_desc(&self.x.name)
            .y_desc(&self.y.name)
            .x_label_formatter(&|place| self.x.label(*place))
            .y_label_formatter(&|place| self.y.label(*place))
            .light_line_style(WHITE.mix(0.0))
            .label_style(("sans-serif", 13))
            .draw()?;
        for (index, points) in lines {
            let (line, colour) = (&self.lines[index], COLOURS[index % COLOURS.len()]);
            let dots = if line.dots { points.clone() } else { vec![] };
            let style = colour.stroke_width(2);
            chart
                .draw_series(LineSeries::new(points, style))?
                .label(&line.name)
                .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], style));
            chart.draw_series(dots.into_iter().map(|at| Circle::new(at, 3, colour.filled())))?;
        }
        if self.lines.len() > 1 {
            chart
                .configure_series_labels()
                .position(SeriesLabelPosition::LowerRight)
                .background_style(WHITE.mix(0.85))
                .border_style(BLACK.mix(0.3))
                .label_font(("sans-serif", 13))
                .draw()?;
        }
        area.present()?;
        Ok(())
    }

    fn placed(&self, line: &Line) -> Vec<(f64, f64)> {
        let place = |(x, y): &(f64, f64)| Some((self.x.place(*x)?, self.y.place(*y)?));
        line.points.iter().filter_map(place).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plot(points: Vec<(f64, f64)>, logarithmic: bool) -> Plot {
        let axis = |name: &str| Axis { name: name.into(), logarithmic, from_zero: true };
        let line = |name: &str| Line { name: name.into(), points: points.clone(), dots: true };
        Plot {
            title: "a & b".into(),
            x: axis("x"),
            y: axis("y"),
            lines: vec![line("one"), line("<two>")],
        }
    }

    #[test]
    fn a_plot_stands_alone() {
        let svg = plot(vec![(1.0, 10.0), (2.0, 1000.0)], false).svg();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{svg}");
        assert!(svg.contains("a &amp; b") && svg.contains("&lt;two&gt;"), "text is escaped");
        for elsewhere in ["href", "<script", "url(", "@import"] {
            assert!(!svg.contains(elsewhere), "{elsewhere}");
        }
    }

    #[test]
    fn labels_are_short() {
        let axis = Axis::linear("x");
        assert_eq!(
            [0.0, 0.5, 1500.0, 2e6].map(|value| axis.label(value)),
            ["0", "0.5", "1.5k", "2M"]
        );
        assert_eq!(Axis::logarithmic("x").label(3.0), "1k");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        #[test]
        fn any_points_give_a_whole_plot(points in prop::collection::vec((any::<f64>(), any::<f64>()), 0..5), logarithmic: bool) {
            let tame = |value: f64| if value.abs() < 1e15 { value } else { f64::NAN };
            let points = points.into_iter().map(|(x, y)| (tame(x), tame(y))).collect();
            prop_assert!(plot(points, logarithmic).svg().trim_end().ends_with("</svg>"));
        }
    }
}
