//! Facts through NVML, the library behind `nvidia-smi`. It comes with the driver and is opened at run time.
//!
//! NVML tells of all GPUs and ignores `CUDA_VISIBLE_DEVICES`, so the one that CUDA uses is looked up. Unaware of stages.
use super::choice::{Choice, choice, visible};
use super::sample::{Facts, Source};
use super::survey::{Card, Driver};
use nvml_wrapper::Nvml;
use nvml_wrapper::enum_wrappers::device::TemperatureSensor;
use nvml_wrapper::error::NvmlError;
use std::sync::OnceLock;

type Device = nvml_wrapper::Device<'static>;

const MIB: f64 = (1 << 20) as f64;

/// The library, opened once a process: that costs tens of milliseconds.
fn library() -> Result<&'static Nvml, String> {
    static OPENED: OnceLock<Result<Nvml, String>> = OnceLock::new();
    OPENED.get_or_init(|| Nvml::init().map_err(|error| error.to_string())).as_ref().map_err(Clone::clone)
}

/// The device that CUDA shows first.
fn device(nvml: &'static Nvml) -> Option<Device> {
    match choice(visible().as_deref()) {
        Choice::Index(index) => nvml.device_by_index(index).ok(),
        Choice::Id(id) => nvml.device_by_uuid(id.as_str()).ok().or_else(|| {
            // An abbreviated id.
            devices(nvml).into_iter().find(|device| device.uuid().is_ok_and(|uuid| uuid.starts_with(&id)))
        }),
        Choice::Nothing => None,
    }
}

fn devices(nvml: &'static Nvml) -> Vec<Device> {
    (0..nvml.device_count().unwrap_or(0)).filter_map(|index| nvml.device_by_index(index).ok()).collect()
}

/// Facts on the device that CUDA shows first.
pub(super) fn open() -> Option<Box<dyn Source>> {
    let nvml = library().ok()?;
    // CUDA may number GPUs by speed, NVML does by address; a MIG slice has its parent's address.
    let slice = matches!(choice(visible().as_deref()), Choice::Id(id) if id.starts_with("MIG-"));
    let by_address = || nvml.device_by_pci_bus_id(anneal_ops::cuda_bus_id().ok()?).ok();
    let found = if slice { None } else { by_address() };
    Some(Box::new(Open(found.or_else(|| device(nvml))?)))
}

struct Open(Device);

/// The fact; `Ok(None)`: the device keeps it to itself.
fn fact<T>(asked: Result<T, NvmlError>) -> Result<Option<T>, ()> {
    match asked {
        Ok(value) => Ok(Some(value)),
        Err(NvmlError::GpuLost | NvmlError::ResetRequired | NvmlError::Uninitialized) => Err(()),
        Err(_) => Ok(None),
    }
}

impl Open {
    fn facts(&self) -> Result<Facts, ()> {
        let memory = fact(self.0.memory_info())?;
        Ok(Facts {
            used_mib: memory.as_ref().map(|memory| memory.used as f64 / MIB),
            total_mib: memory.as_ref().map(|memory| memory.total as f64 / MIB),
            utilisation_percent: fact(self.0.utilization_rates())?.map(|rates| f64::from(rates.gpu)),
            // Both counters are in thousandths.
            power_watts: fact(self.0.power_usage())?.map(|milliwatts| f64::from(milliwatts) / 1000.0),
            temperature_celsius: fact(self.0.temperature(TemperatureSensor::Gpu))?.map(f64::from),
            energy_joules: fact(self.0.total_energy_consumption())?.map(|millijoules| millijoules as f64 / 1000.0),
        })
    }
}

impl Source for Open {
    fn name(&self) -> String {
        self.0.name().unwrap_or_else(|_| "GPU".to_owned())
    }
    fn sample(&mut self) -> Option<Facts> {
        self.facts().ok()
    }
}

/// The driver and every card that it shows, for `doctor`.
pub(super) fn survey() -> Result<(Driver, Vec<Card>), String> {
    let nvml = library()?;
    let version = nvml.sys_driver_version().map_err(|error| error.to_string())?;
    let cuda = nvml.sys_cuda_driver_version().ok().map(|version| (version / 1000, version % 1000 / 10));
    let chosen = device(nvml).and_then(|device| device.uuid().ok());
    let card = |device: Device| {
        let memory = device.memory_info().ok();
        Card {
            name: device.name().unwrap_or_else(|_| "GPU".to_owned()),
            capability: device.cuda_compute_capability().ok().map(|is| (is.major, is.minor)),
            used_mib: memory.as_ref().map(|memory| memory.used as f64 / MIB),
            total_mib: memory.as_ref().map(|memory| memory.total as f64 / MIB),
            programs: device.running_compute_processes_count().ok(),
            chosen: chosen.is_some() && device.uuid().ok() == chosen,
        }
    };
    Ok((Driver { version, cuda }, devices(nvml).into_iter().map(card).collect()))
}

/// Every GPU that this process may use, by id, with its memory in MiB; in the order of the list that says so.
pub(super) fn usable() -> Vec<(String, Option<u64>)> {
    let Ok(nvml) = library() else { return Vec::new() };
    let all: Vec<(String, Option<u64>)> = devices(nvml)
        .into_iter()
        .filter_map(|device| Some((device.uuid().ok()?, device.memory_info().ok().map(|memory| memory.total >> 20))))
        .collect();
    let Some(list) = visible() else { return all };
    let named = |entry: &str| match choice(Some(entry)) {
        Choice::Index(index) => all.get(index as usize).cloned(),
        // A slice has no entry of its own here; its memory is not known.
        Choice::Id(id) => Some(all.iter().find(|(uuid, _)| uuid.starts_with(&id)).cloned().unwrap_or((id, None))),
        Choice::Nothing => None,
    };
    list.split(',').map_while(named).collect()
}
