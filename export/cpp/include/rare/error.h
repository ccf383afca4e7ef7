#pragma once

#include <stdexcept>
#include <string>

namespace rare {

/// What a failure is about. The values are the exit codes of the `rare` command.
enum class Fault { bug = 1, usage = 2, data = 3, model = 4, environment = 5 };

/// Where and what; empty parts are left out of the message.
struct Details {
  std::string path = {};
  std::string found = {};
  std::string expected = {};
  std::string remedy = {};
};

/// A failure that a user can cause or meet. `what()` is one line: problem; path; found; expected; remedy.
class Error : public std::runtime_error {
 public:
  Error(Fault fault, const std::string& problem, const Details& details = {});
  const std::string& problem() const { return problem_; }
  int exit_code() const { return static_cast<int>(fault_); }

  /// The same error, said of a file: for those who know the path where the problem was found without it.
  Error at(const std::string& path) const;

 private:
  Fault fault_;
  std::string problem_;
  Details details_;
};

}  // namespace rare
