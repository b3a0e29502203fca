//! Where training runs. A GPU that was asked for and can't be had is an error, never a silent fall back to the CPU.

use super::TrainError;
use crate::sys;

/// What to train on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrainDevice {
    /// The CPU.
    #[default]
    Cpu,
    /// A CUDA device, by its number.
    Cuda(usize),
}

/// Makes the device usable. For CUDA this must come before anything else that touches libtorch, which looks for its
/// CUDA half once.
pub(super) fn open(device: TrainDevice) -> Result<tch::Device, TrainError> {
    let TrainDevice::Cuda(index) = device else { return Ok(tch::Device::Cpu) };
    sys::load_cuda().map_err(TrainError::CudaUnavailable)?;
    if !tch::Cuda::is_available() {
        return Err(TrainError::CudaUnavailable("libtorch's CUDA half loaded but found no usable device".into()));
    }
    let count = usize::try_from(tch::Cuda::device_count()).unwrap_or(0);
    if index >= count {
        return Err(TrainError::CudaUnavailable(format!("device {index} was asked for, but there are {count}")));
    }
    Ok(tch::Device::Cuda(index))
}
