// SPDX-License-Identifier: MIT OR Apache-2.0
//! One picture of the figures of `cargo xtask bench`: each row's cost as a part of what OpenSSL costs.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use crate::bench_cells::{Carried, Column};
use crate::bench_table::Figures;

const COLORS: [(Column, &str, RGBColor); 3] = [
    (Column::Tcp, "no TLS", RGBColor(190, 190, 190)),
    (
        Column::Ktls,
        "OpenSSL's own kernel TLS",
        RGBColor(120, 160, 210),
    ),
    (Column::Shim, "ktlsshim", RGBColor(220, 120, 50)),
];

/// Height of a row with its three bars, and of what lies around them.
const ROW: u32 = 44;
const AROUND: u32 = 110;

pub fn draw(figures: &Figures, tls: &str, cipher: &str, file: &Path) -> Result<()> {
    let rows: Vec<_> = figures.ratios(tls, cipher);
    if rows.is_empty() {
        return Err(anyhow!("no figures of TLS {tls} with {cipher} to draw"));
    }
    let size = (860, AROUND + ROW * u32::try_from(rows.len())?);
    let root = SVGBackend::new(file, size).into_drawing_area();
    root.fill(&WHITE)?;
    let title = format!("Instructions, OpenSSL = 100 %  (TLS {tls}, {cipher}; fewer is better)");
    let height = rows.len() as f64;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 17))
        .margin(12)
        .x_label_area_size(30)
        .y_label_area_size(10)
        .build_cartesian_2d(-28f64..150f64, 0f64..height)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .x_labels(10)
        .x_label_formatter(&|x| {
            if *x < 0.0 {
                String::new()
            } else {
                format!("{x:.0} %")
            }
        })
        .draw()?;
    for (column, name, color) in COLORS {
        let place = match column {
            Column::Tcp => 0.62,
            Column::Ktls => 0.37,
            _ => 0.12,
        };
        let bars = rows.iter().enumerate().filter_map(|(at, row)| {
            let ratio = row.to_openssl(column)? * 100.0;
            // Where OpenSSL's own kernel TLS has no receive, its bar would be OpenSSL's.
            if column == Column::Ktls && row.row.carried == Carried::Rx && tls == "1.3" {
                return None;
            }
            let y = height - 1.0 - at as f64 + place;
            Some(Rectangle::new(
                [(0.0, y), (ratio.min(150.0), y + 0.22)],
                color.filled(),
            ))
        });
        chart
            .draw_series(bars)?
            .label(name)
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 12, y + 5)], color.filled()));
    }
    chart.draw_series(rows.iter().enumerate().map(|(at, row)| {
        let y = height - 1.0 - at as f64 + 0.6;
        let name = match row.row.name.starts_with("wake") {
            true => format!("{}, wake-ups", row.row.name),
            false => row.row.name.to_owned(),
        };
        Text::new(name, (-27.0, y), ("sans-serif", 14))
    }))?;
    chart.draw_series(rows.iter().enumerate().filter_map(|(at, row)| {
        let ratio = row.to_openssl(Column::Shim)? * 100.0;
        let y = height - 1.0 - at as f64 + 0.36;
        Some(Text::new(
            format!("{ratio:.0} %"),
            (ratio.min(138.0) + 1.0, y),
            ("sans-serif", 12),
        ))
    }))?;
    chart.draw_series(LineSeries::new(
        [(100.0, 0.0), (100.0, height)],
        BLACK.stroke_width(1),
    ))?;
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.9))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    root.present()?;
    Ok(())
}
