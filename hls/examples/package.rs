//! Packages a fragmented MP4 (one track per file, as written by `ffmpeg -movflags frag_keyframe+empty_moov`) into an
//! HLS folder, so that ffprobe and players can check the output of this crate.
//!
//! `cargo run -p hls --example package -- OUTDIR LATENCY RUNG=FILE...`
#![allow(clippy::print_stderr, reason = "a tool for people")]

use bytes::Bytes;
use hls::{
    AudioTrack, CutRule, Epoch, Latency, Output, Packager, Presentation, RungName, SessionId, Timing, Track,
    TrackKind, VideoTrack,
};
use media::{Anchor, AudioCodec, MediaSpan, MediaTime, Unit, VideoCodec, WallTime};
use mp4_atom::{Any, Atom, DecodeMaybe, Moov};
use std::error::Error;
use std::path::Path;

/// Start of the media axis, late enough that no decode time is negative.
const START: MediaTime = MediaTime::from_ticks_90k(900_000);

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let out = args.next().ok_or("OUTDIR LATENCY RUNG=FILE...")?;
    let timing = Timing::new(args.next().ok_or("LATENCY")?.parse::<Latency>()?).without_parts();
    let mut tracks = Vec::new();
    let mut samples = Vec::new();
    for input in args {
        let (rung, file) = input.split_once('=').ok_or("RUNG=FILE")?;
        let (track, media) = read(RungName::new(rung)?, &std::fs::read(file)?)?;
        samples.extend(media.into_iter().map(|sample| (track.rung.clone(), sample)));
        tracks.push(track);
    }
    samples.sort_by_key(|(_, sample)| sample.dts);

    let mut packager = Packager::new(timing.clone(), 0);
    let mut presentation = Presentation::new(&timing);
    presentation.set_tracks(&tracks);
    let anchor = Anchor { media: START, wall: WallTime::from_unix_micros(1_795_348_800_000_000) };
    let session = SessionId::from_start(anchor.wall.unix_micros(), 0);
    packager.begin(Epoch { session, start: START, anchor, tracks: tracks.clone(), cuts: CutRule::Grid })?;
    for (rung, sample) in samples {
        packager.push(&rung, sample)?;
        write(&mut packager, &mut presentation, Path::new(&out))?;
    }
    packager.end_epoch(None);
    write(&mut packager, &mut presentation, Path::new(&out))?;
    presentation.end();
    for track in &tracks {
        let text = presentation.media_playlist(&track.rung).unwrap_or_default();
        std::fs::write(Path::new(&out).join(track.rung.as_str()).join("index.m3u8"), text)?;
    }
    std::fs::write(Path::new(&out).join("index.m3u8"), presentation.multivariant().unwrap_or_default())?;
    eprintln!("{:?}", packager.counters());
    Ok(())
}

fn write(packager: &mut Packager, presentation: &mut Presentation, out: &Path) -> std::io::Result<()> {
    while let Some(output) = packager.poll() {
        let (rung, name, body) = match &output {
            Output::Init(init) => (&init.rung, &init.name, Some(&init.body)),
            Output::Part(_) => continue,
            Output::Segment(segment) => (&segment.info().rung, &segment.info().name, segment.body()),
        };
        let folder = out.join(rung.as_str());
        std::fs::create_dir_all(&folder)?;
        if let Some(body) = body {
            std::fs::write(folder.join(name), body)?;
        }
        match &output {
            Output::Init(init) => presentation.add_init(init),
            Output::Part(_) => {}
            Output::Segment(segment) => presentation.add(segment.info().clone()),
        }
    }
    Ok(())
}

fn read(rung: RungName, file: &[u8]) -> Result<(Track, Vec<Unit>), Box<dyn Error>> {
    let mut rest = file;
    let mut moov: Option<Moov> = None;
    let mut samples = Vec::new();
    while let Some(found) = {
        let offset = file.len() - rest.len();
        Any::decode_maybe(&mut rest)?.map(|found| (offset, found))
    } {
        match found {
            (_, Any::Moov(found)) => moov = Some(found),
            (offset, Any::Moof(moof)) => {
                let media = &moov.as_ref().ok_or("moov first")?.trak[0].mdia;
                let (timescale, audio) = (media.mdhd.timescale, media.minf.smhd.is_some());
                let traf = &moof.traf[0];
                let mut at = traf.tfdt.as_ref().ok_or("no tfdt")?.base_media_decode_time as i64;
                for trun in &traf.trun {
                    let mut data = &file[offset + trun.data_offset.ok_or("no offset")? as usize..];
                    for (i, entry) in trun.samples.iter().enumerate() {
                        let size = entry.size.or(traf.tfhd.default_sample_size).ok_or("no size")?;
                        let (sample, behind) = data.split_at(size as usize);
                        data = behind;
                        let time =
                            |count| START + (MediaTime::from_scaled(count, timescale) - MediaTime::ZERO);
                        samples.push(Unit {
                            pts: time(at + entry.cts.unwrap_or(0)),
                            dts: time(at),
                            key: i == 0 || audio,
                            data: Bytes::copy_from_slice(sample),
                        });
                        at += i64::from(
                            entry.duration.or(traf.tfhd.default_sample_duration).ok_or("no duration")?,
                        );
                    }
                }
            }
            _ => {}
        }
    }
    let moov = moov.ok_or("no moov")?;
    let kind = match &moov.trak[0].mdia.minf.stbl.stsd.codecs[0] {
        mp4_atom::Codec::Avc1(avc1) => {
            let mut config = Vec::new();
            avc1.avcc.encode_body(&mut config)?;
            TrackKind::Video(VideoTrack {
                codec: VideoCodec::H264,
                config: config.into(),
                width: avc1.visual.width,
                height: avc1.visual.height,
                sample_aspect: (1, 1),
                frame_rate: 30.0,
                nominal_bitrate: 600_000,
                captions: media::captions::CaptionServices::NONE,
            })
        }
        mp4_atom::Codec::Mp4a(mp4a) => {
            let config = mp4a.esds.es_desc.dec_config.dec_specific.clone().ok_or("no config")?.raw;
            TrackKind::Audio(AudioTrack {
                codec: AudioCodec::Aac,
                config: config.into(),
                sample_rate: mp4a.audio.sample_rate.integer().into(),
                channels: mp4a.audio.channel_count as u8,
                frame_samples: 1024,
                name: None,
                language: None,
                nominal_bitrate: 96_000,
            })
        }
        other => return Err(format!("cannot package {other:?}").into()),
    };
    // ffmpeg starts the decode times of B-frames below zero, with an edit list; here all media begins at START.
    let first = samples.iter().map(|s| s.pts).min().unwrap_or(START);
    let shift: MediaSpan = START - first;
    for sample in &mut samples {
        sample.pts += shift;
        sample.dts += shift;
    }
    Ok((Track { rung, kind }, samples))
}
