#include <algorithm>
#include <exception>

#include <openvino/openvino.hpp>
#include <openvino/runtime/intel_cpu/properties.hpp>

#include "rare/engine.h"
#include "rare/error.h"

namespace rare {
namespace {

class OpenVinoEngine : public Engine {
 public:
  OpenVinoEngine(const std::filesystem::path& graph, const EngineFacts& engine, std::size_t num_channels, const Shape& window) {
    ov::Core core;
    const auto model = core.read_model(graph.string());
    model->input(engine.input_name);  // throws unless the model has the manifest's tensors
    model->output(engine.output_name);
    const auto size = [&](std::size_t axis) { return ov::Dimension(static_cast<std::int64_t>(window[axis])); };
    // fixed sizes run faster
    model->reshape(ov::PartialShape{1, static_cast<std::int64_t>(num_channels), size(0), size(1), size(2)});
    auto compiled = core.compile_model(model, "CPU", ov::hint::inference_precision(ov::element::f32),
                                       ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY),
                                       ov::intel_cpu::denormals_optimization(true));
    request_ = compiled.create_infer_request();
  }

  void run(const std::vector<float>& window, std::vector<float>& logits) override {
    std::copy(window.begin(), window.end(), request_.get_input_tensor().data<float>());
    request_.infer();
    const ov::Tensor answer = request_.get_output_tensor();
    if (answer.get_size() != logits.size()) {
      throw Error(Fault::model, "the engine returned a different shape",
                  {{}, std::to_string(answer.get_size()), std::to_string(logits.size())});
    }
    std::copy_n(answer.data<const float>(), logits.size(), logits.begin());
  }

 private:
  ov::InferRequest request_;
};

}  // namespace

std::unique_ptr<Engine> open_openvino(const Bundle& bundle, const EngineFacts& engine, const Shape& window) {
  const std::filesystem::path graph = bundle.onnx_file(engine);
  try {
    return std::make_unique<OpenVinoEngine>(graph, engine, bundle.manifest().num_channels, window);
  } catch (const ov::Exception& error) {
    throw Error(Fault::model, "OpenVINO cannot open the engine", {graph.string(), error.what(), {}});
  }
}

}  // namespace rare
