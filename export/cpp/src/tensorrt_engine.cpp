// Compiled with -DRARE_TENSORRT=ON, which needs TensorRT 10 or 11 and CUDA. A plan is valid only for the TensorRT version and the kind of
// GPU that it was built with; both are compared before it is loaded.

#include <algorithm>
#include <cstdint>
#include <exception>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>

#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>

#include "rare/engine.h"
#include "rare/error.h"

namespace rare {
namespace {

void require_cuda(cudaError_t status) {
  if (status != cudaSuccess) throw Error(Fault::environment, "CUDA failed", {{}, cudaGetErrorString(status), {}});
}

/// Keeps the library's errors for rare's own message and prints nothing.
class Log : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* message) noexcept override {
    if (severity > Severity::kERROR) return;
    try {
      errors_ += (errors_.empty() ? "" : "; ") + std::string(message);
    } catch (const std::exception&) {
      // without memory the message is lost; the failure itself is still reported
    }
  }
  const std::string& errors() const { return errors_; }

 private:
  std::string errors_;
};

/// A buffer of floats on the GPU.
class DeviceBuffer {
 public:
  explicit DeviceBuffer(std::size_t num_floats) : num_bytes_(num_floats * sizeof(float)) { require_cuda(cudaMalloc(&memory_, num_bytes_)); }
  ~DeviceBuffer() { cudaFree(memory_); }
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;

  void* get() const { return memory_; }
  std::size_t num_bytes() const { return num_bytes_; }

 private:
  void* memory_ = nullptr;
  std::size_t num_bytes_;
};

class Stream {
 public:
  Stream() { require_cuda(cudaStreamCreate(&stream_)); }
  ~Stream() { cudaStreamDestroy(stream_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

std::string compute_capability() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
    throw Error(Fault::environment, "there is no GPU that CUDA can use", {{}, {}, "run on the machine that the plan was built on"});
  }
  int major = 0, minor = 0;
  require_cuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0));
  require_cuda(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0));
  return std::to_string(major) + "." + std::to_string(minor);
}

/// Returns the version of the loaded library, e.g. "10.13.3", not that of the headers.
std::string library_version() {
  const int version = getInferLibVersion();
  return std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." + std::to_string(version % 100);
}

void require_same_machine(const PlanFacts& plan, const std::string& path) {
  const std::string version = library_version();
  // the facts hold Python's __version__, which ends with a build number
  if (plan.library != "tensorrt" || (plan.version + ".").rfind(version + ".", 0) != 0) {
    throw Error(Fault::environment, "the plan was built by another version of TensorRT",
                {path, plan.library + " " + plan.version, "tensorrt " + version});
  }
  const std::string capability = compute_capability();
  if (plan.compute_capability != capability) {
    throw Error(Fault::environment, "the plan was built for another GPU",
                {path, "compute capability " + plan.compute_capability.value_or("none"), capability});
  }
}

void require_in_profile(const PlanFacts& plan, const std::string& path, const std::vector<std::size_t>& shape) {
  for (std::size_t axis = 0; axis < shape.size(); ++axis) {
    if (shape[axis] < plan.shape_min.at(axis) || shape[axis] > plan.shape_max.at(axis)) {
      throw Error(Fault::model, "the plan does not accept this shape",
                  {path, times(shape), times(plan.shape_min) + " to " + times(plan.shape_max)});
    }
  }
}

class TensorRtEngine : public Engine {
 public:
  TensorRtEngine(const std::string& path, const EngineFacts& engine, const std::vector<std::size_t>& shape, std::size_t num_logits)
      : path_(path), input_(num_floats(shape)), output_(num_logits) {
    std::ifstream file(path, std::ios::binary);
    const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
    runtime_.reset(nvinfer1::createInferRuntime(log_));
    require(runtime_ != nullptr, "TensorRT cannot start");
    engine_.reset(runtime_->deserializeCudaEngine(bytes.data(), bytes.size()));
    require(engine_ != nullptr, "TensorRT cannot load the plan");
    context_.reset(engine_->createExecutionContext());
    require(context_ != nullptr, "TensorRT cannot open the plan");
    nvinfer1::Dims dims{};
    dims.nbDims = static_cast<std::int32_t>(shape.size());
    std::copy(shape.begin(), shape.end(), dims.d);
    require(context_->setInputShape(engine.input_name.c_str(), dims), "the plan does not accept this shape");
    require(context_->setTensorAddress(engine.input_name.c_str(), input_.get()), "the plan has no such input");
    require(context_->setTensorAddress(engine.output_name.c_str(), output_.get()), "the plan has no such output");
    const nvinfer1::Dims answer = context_->getTensorShape(engine.output_name.c_str());
    std::int64_t size = 1;
    for (std::int32_t axis = 0; axis < answer.nbDims; ++axis) size *= answer.d[axis];
    require(size == static_cast<std::int64_t>(num_logits), "the plan returned a different shape");
  }

  void run(const std::vector<float>& window, std::vector<float>& logits) override {
    require_cuda(cudaMemcpyAsync(input_.get(), window.data(), input_.num_bytes(), cudaMemcpyHostToDevice, stream_.get()));
    require(context_->enqueueV3(stream_.get()), "TensorRT cannot run the plan");
    require_cuda(cudaMemcpyAsync(logits.data(), output_.get(), output_.num_bytes(), cudaMemcpyDeviceToHost, stream_.get()));
    require_cuda(cudaStreamSynchronize(stream_.get()));
  }

 private:
  static std::size_t num_floats(const std::vector<std::size_t>& shape) {
    std::size_t product = 1;
    for (const std::size_t size : shape) product *= size;
    return product;
  }

  void require(bool done, const std::string& problem) const {
    if (!done) throw Error(Fault::model, problem, {path_, log_.errors(), {}});
  }

  std::string path_;
  Log log_;
  Stream stream_;
  DeviceBuffer input_, output_;
  // in this order, so that the context is destroyed first and the runtime last
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  std::unique_ptr<nvinfer1::IExecutionContext> context_;
};

}  // namespace

std::unique_ptr<Engine> open_tensorrt(const Bundle& bundle, const EngineFacts& engine, const Shape& window) {
  const PlanFacts& plan = engine.plan.value();
  const std::string path = bundle.file(plan.file).string();
  require_same_machine(plan, path);
  const std::vector<std::size_t> shape{1, bundle.manifest().num_channels, window[0], window[1], window[2]};
  require_in_profile(plan, path, shape);
  return std::make_unique<TensorRtEngine>(path, engine, shape, bundle.manifest().label_values.size() * num_voxels(window));
}

}  // namespace rare
