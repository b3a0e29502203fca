//! A CUDA device behind NVIDIA's driver, which is looked for when one is asked for: the program needs none to start.

use std::collections::HashMap;
use std::sync::Arc;

use cudarc::driver::sys::CUresult;
use cudarc::driver::{
    CudaContext, CudaFunction, CudaSlice, CudaStream, DevicePtr, DriverError, LaunchConfig, PushKernelArg, sys,
};
use cudarc::nvrtc::Ptx;

use super::{Arg, CudaError, Kernel, Machine, Module};

/// A CUDA device with some modules' kernels loaded.
pub struct Gpu {
    stream: Arc<CudaStream>,
    kernels: HashMap<Kernel, CudaFunction>,
    name: String,
    device: usize,
}

impl std::fmt::Debug for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gpu({}: {})", self.device, self.name)
    }
}

/// Memory of a [`Gpu`].
#[derive(Debug)]
pub struct GpuBuffer(CudaSlice<u8>);

fn failed(doing: &'static str) -> impl Fn(DriverError) -> CudaError {
    move |error| CudaError::Driver { doing, problem: format!("{error:?}") }
}

impl Gpu {
    /// Opens a device by its number and has the driver make machine code of these modules' kernels. No other can be launched.
    pub fn open(device: usize, modules: &[Module]) -> Result<Self, CudaError> {
        // SAFETY: loading the driver's library runs its initialisers, which is what every CUDA program does.
        if !unsafe { sys::is_culib_present() } {
            return Err(CudaError::NoDriver);
        }
        let no_device = |devices| CudaError::NoDevice { device, devices };
        let devices = match CudaContext::device_count() {
            Ok(count) => usize::try_from(count).unwrap_or(0),
            Err(DriverError(CUresult::CUDA_ERROR_NO_DEVICE)) => 0,
            Err(error) => return Err(failed("to count devices")(error)),
        };
        if device >= devices {
            return Err(no_device(devices));
        }
        let context = CudaContext::new(device).map_err(failed("to open the device"))?;
        // SAFETY: everything happens on one stream, whose order is all the order there has to be.
        unsafe { context.disable_event_tracking() };
        let mut kernels = HashMap::new();
        for (name, ptx) in modules {
            let module = context.load_module(Ptx::from_src(*ptx)).map_err(failed("to compile the kernels"))?;
            for kernel in Kernel::ALL.iter().filter(|kernel| kernel.module() == *name) {
                kernels.insert(*kernel, module.load_function(kernel.name()).map_err(failed("to find a kernel"))?);
            }
        }
        let name = context.name().map_err(failed("to name the device"))?;
        let stream = context.new_stream().map_err(failed("to make a stream"))?;
        Ok(Self { stream, kernels, name, device })
    }

    /// The device's name, as its driver gives it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes of memory that are free now.
    pub fn free_bytes(&self) -> Result<usize, CudaError> {
        self.stream.context().mem_get_info().map(|(free, _)| free).map_err(failed("to ask for free memory"))
    }
}

impl Machine for Gpu {
    type Buffer = GpuBuffer;

    fn allocate(&self, bytes: usize) -> Result<GpuBuffer, CudaError> {
        // SAFETY: bytes have no invalid values; whoever reads them before writing gets some number.
        match unsafe { self.stream.alloc::<u8>(bytes) } {
            Ok(slice) => Ok(GpuBuffer(slice)),
            Err(DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => Err(CudaError::OutOfMemory { bytes }),
            Err(error) => Err(failed("to allocate memory")(error)),
        }
    }

    fn write(&self, buffer: &mut GpuBuffer, at: usize, bytes: &[u8]) -> Result<(), CudaError> {
        let mut part = buffer.0.slice_mut(at..at + bytes.len());
        self.stream.memcpy_htod(bytes, &mut part).map_err(failed("to copy to it"))
    }

    fn read(&self, buffer: &GpuBuffer, at: usize, bytes: &mut [u8]) -> Result<(), CudaError> {
        let part = buffer.0.slice(at..at + bytes.len());
        self.stream.memcpy_dtoh(&part, bytes).map_err(failed("to copy from it"))?;
        self.stream.synchronize().map_err(failed("while kernels ran"))
    }

    fn copy(&self, from: &GpuBuffer, to: &mut GpuBuffer, bytes: usize) -> Result<(), CudaError> {
        let mut target = to.0.slice_mut(..bytes);
        self.stream.memcpy_dtod(&from.0.slice(..bytes), &mut target).map_err(failed("to copy within it"))
    }

    fn zero(&self, buffer: &mut GpuBuffer, bytes: usize) -> Result<(), CudaError> {
        let mut target = buffer.0.slice_mut(..bytes);
        self.stream.memset_zeros(&mut target).map_err(failed("to zero memory"))
    }

    unsafe fn launch(
        &self,
        kernel: Kernel,
        grid: [u32; 3],
        threads: u32,
        args: &[Arg<'_, GpuBuffer>],
    ) -> Result<(), CudaError> {
        /// An argument where the driver can read it.
        enum Held {
            Four(u32),
            Eight(u64),
        }
        let function = self
            .kernels
            .get(&kernel)
            .ok_or_else(|| CudaError::Fault(format!("the kernel {} was not loaded", kernel.name())))?;
        let held: Vec<Held> = args
            .iter()
            .map(|arg| match arg {
                Arg::Buffer(buffer, at) => Held::Eight(buffer.0.device_ptr(&self.stream).0 + *at as u64),
                Arg::U32(value) => Held::Four(*value),
                Arg::U64(value) => Held::Eight(*value),
                Arg::F32(value) => Held::Four(value.to_bits()),
            })
            .collect();
        let mut launch = self.stream.launch_builder(function);
        for arg in &held {
            match arg {
                Held::Four(value) => launch.arg(value),
                Held::Eight(value) => launch.arg(value),
            };
        }
        let [x, y, z] = grid;
        let config = LaunchConfig { grid_dim: (x, y, z), block_dim: (threads, 1, 1), shared_mem_bytes: 0 };
        // SAFETY: the caller's promise; the buffers live until work given to the stream after this is done.
        unsafe { launch.launch(config) }.map(|_| ()).map_err(failed("to start a kernel"))
    }
}
