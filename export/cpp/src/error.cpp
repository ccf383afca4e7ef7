#include "rare/error.h"

#include <algorithm>

namespace rare {
namespace {

std::string one_line(const std::string& problem, const Details& details) {
  std::string line = problem;
  if (!details.path.empty()) line += "; path: " + details.path;
  if (!details.found.empty()) line += "; found: " + details.found;
  if (!details.expected.empty()) line += "; expected: " + details.expected;
  if (!details.remedy.empty()) line += "; remedy: " + details.remedy;
  // messages of libraries contain line breaks
  std::replace(line.begin(), line.end(), '\n', ' ');
  return line;
}

}  // namespace

Error::Error(Fault fault, const std::string& problem, const Details& details)
    : std::runtime_error(one_line(problem, details)), fault_(fault), problem_(problem), details_(details) {}

Error Error::at(const std::string& path) const { return {fault_, problem_, {path, details_.found, details_.expected, details_.remedy}}; }

}  // namespace rare
