# TensorFlow Lite for Microcontrollers (TFLM) as the static library `tflm`.
#
# TFLM_ROOT     a clone of tflite-micro; if empty, the revision below is fetched
# TFLM_LIBRARY  a built libtensorflow-microlite.a, in place of compiling
# TFLM_MIRROR   where archives are fetched from
# CMSIS_NN      the kernels of CMSIS-NN, for Cortex-M

# Adds the kernels of operators to `tflm`, by methods of the resolver such as
# AddConv2D. One that TFLM lacks ends the configuration, by its name. A target
# `tflm` that is not of this file is left alone.
function(tflm_require)
  get_target_property(folder tflm TFLM_FOLDER)
  if(NOT folder)
    return()
  endif()
  file(READ "${folder}/tensorflow/lite/micro/micro_mutable_op_resolver.h" text)
  foreach(method IN LISTS ARGN)
    string(FIND "${text}" " ${method}(" position)
    if(position EQUAL -1)
      message(FATAL_ERROR
        "TFLM must have the operators of the model. Received: '${folder}', "
        "without ${method}(). Use revision @{revision} or a later one.")
    endif()
    # Up to the next method.
    string(SUBSTRING "${text}" ${position} -1 body)
    string(FIND "${body}" "TfLiteStatus " length)
    string(SUBSTRING "${body}" 0 ${length} body)
    string(REGEX MATCHALL "Register_[A-Za-z0-9_]+" functions "${body}")
    list(APPEND registrations ${functions})
  endforeach()
  get_target_property(kernels tflm TFLM_KERNELS)
  get_target_property(added tflm SOURCES)
  foreach(kernel IN LISTS kernels)
    file(READ "${kernel}" text)
    foreach(function IN LISTS registrations)
      string(FIND "${text}" " ${function}()" position)
      if(NOT position EQUAL -1 AND NOT kernel IN_LIST added)
        target_sources(tflm PRIVATE "${kernel}")
        break()
      endif()
    endforeach()
  endforeach()
endfunction()

# Another model in this firmware, or the firmware itself, has brought it.
if(TARGET tflm)
  return()
endif()
include(FetchContent)
if(POLICY CMP0135)
  cmake_policy(SET CMP0135 NEW)
endif()

set(TFLM_REVISION @{revision})
set(TFLM_ROOT "$ENV{TFLM_ROOT}" CACHE PATH "A clone of tflite-micro")
set(TFLM_LIBRARY "$ENV{TFLM_LIBRARY}" CACHE FILEPATH "A built TFLM")
set(TFLM_MIRROR "https://github.com" CACHE STRING "Source of the archives")
option(CMSIS_NN "Use the kernels of CMSIS-NN" OFF)

# Sets NAME_DIR to the folder of a repository: in TFLM_ROOT, where TFLM's own
# tools put it, or fetched. MARK is a file in it.
function(tflm_find NAME MARK REPOSITORY REVISION)
  foreach(folder IN ITEMS tensorflow/lite/micro/tools/make/downloads third_party)
    if(EXISTS "${TFLM_ROOT}/${folder}/${NAME}/${MARK}")
      set(${NAME}_DIR "${TFLM_ROOT}/${folder}/${NAME}" PARENT_SCOPE)
      return()
    endif()
  endforeach()
  FetchContent_Declare(
    tflm_${NAME}
    URL ${TFLM_MIRROR}/${REPOSITORY}/archive/${REVISION}.tar.gz
    SOURCE_SUBDIR none)  # Without their own CMakeLists.txt.
  FetchContent_MakeAvailable(tflm_${NAME})
  set(${NAME}_DIR "${tflm_${NAME}_SOURCE_DIR}" PARENT_SCOPE)
endfunction()

set(core_mark tensorflow/lite/micro/micro_mutable_op_resolver.h)
if(TFLM_ROOT)
  if(NOT EXISTS "${TFLM_ROOT}/${core_mark}")
    message(FATAL_ERROR
      "TFLM_ROOT must be a clone of tflite-micro. Received: '${TFLM_ROOT}', "
      "without ${core_mark}.")
  endif()
  set(tflm_DIR "${TFLM_ROOT}")
else()
  tflm_find(tflm ${core_mark} tensorflow/tflite-micro ${TFLM_REVISION})
endif()
# What TFLM's own scripts download at this revision.
tflm_find(flatbuffers include/flatbuffers/flatbuffers.h google/flatbuffers v25.9.23)
tflm_find(gemmlowp fixedpoint/fixedpoint.h google/gemmlowp
  719139ce755a0f31cbf1c37f7f98adcc7fc9f425)
tflm_find(ruy ruy/profiler/instrumentation.h google/ruy
  d37128311b445e758136b8602d1bbd2a755e115d)

set(lite "${tflm_DIR}/tensorflow/lite")
file(GLOB core
  ${tflm_DIR}/tensorflow/compiler/mlir/lite/core/api/*.cc
  ${tflm_DIR}/tensorflow/compiler/mlir/lite/schema/*.cc
  ${lite}/core/api/*.cc ${lite}/core/c/*.cc
  ${lite}/kernels/kernel_util.cc
  ${lite}/kernels/internal/*.cc ${lite}/kernels/internal/reference/*.cc
  ${lite}/micro/*.cc ${lite}/micro/arena_allocator/*.cc
  ${lite}/micro/memory_planner/*.cc ${lite}/micro/tflite_bridge/*.cc)
file(GLOB kernels ${lite}/micro/kernels/*.cc)

if(CMSIS_NN)
  tflm_find(cmsis CMSIS/Core/Include/cmsis_compiler.h ARM-software/CMSIS_6
    5782d6f8057906d360f4b95ec08a2354afe5c9b9)
  tflm_find(cmsis_nn Include/arm_nnfunctions.h ARM-software/CMSIS-NN
    4ab83cc3cc98fb85ed6dafb55e8ca02f1628dcae)
  # Its kernels replace those of the same names.
  file(GLOB faster ${lite}/micro/kernels/cmsis_nn/*.cc)
  foreach(kernel IN LISTS faster)
    get_filename_component(name ${kernel} NAME)
    list(REMOVE_ITEM kernels ${lite}/micro/kernels/${name})
  endforeach()
  list(APPEND kernels ${faster})
  file(GLOB_RECURSE functions ${cmsis_nn_DIR}/Source/*.c)
  list(FILTER functions EXCLUDE REGEX "(_f16|_f32|_flt)\\.c$")
  list(APPEND core ${functions})
endif()

# By the name of a file: a folder on the way may be called `test_area`.
set(unused "/[^/]*(_test|test_|mock_|fake_|_generated_data|kernel_runner)[^/]*$")
list(FILTER core EXCLUDE REGEX "${unused}")
list(FILTER kernels EXCLUDE REGEX "${unused}")
# Files that register no operator hold what several kernels share.
set(registering ${kernels})
foreach(kernel IN LISTS kernels)
  file(STRINGS "${kernel}" found REGEX " Register_[A-Za-z0-9_]+\\(\\)" LIMIT_COUNT 1)
  if(NOT found)
    list(REMOVE_ITEM registering "${kernel}")
    list(APPEND core "${kernel}")
  endif()
endforeach()

if(TFLM_LIBRARY)
  add_library(tflm INTERFACE)
  target_link_libraries(tflm INTERFACE "${TFLM_LIBRARY}")
  set(scope INTERFACE)
  set(registering "")
else()
  add_library(tflm STATIC ${core})
  # The warnings are TFLM's own affair.
  target_compile_options(tflm PRIVATE
    -w -ffunction-sections -fdata-sections $<$<CONFIG:Release>:-O2>
    $<$<COMPILE_LANGUAGE:CXX>:-fno-rtti -fno-exceptions>)
  set(scope PUBLIC)
endif()
set_target_properties(tflm PROPERTIES
  TFLM_FOLDER "${tflm_DIR}" TFLM_KERNELS "${registering}"
  COMPILE_WARNING_AS_ERROR OFF)
# TF_LITE_STATIC_MEMORY changes structs: your own files need it as well.
target_compile_definitions(tflm ${scope}
  TF_LITE_STATIC_MEMORY TF_LITE_DISABLE_X86_NEON
  FLATBUFFERS_LOCALE_INDEPENDENT=0 FLATBUFFERS_PREFER_PRINTF=1)
target_compile_features(tflm ${scope} cxx_std_17)
target_include_directories(tflm SYSTEM ${scope}
  ${tflm_DIR} ${flatbuffers_DIR}/include ${gemmlowp_DIR} ${ruy_DIR})
if(CMSIS_NN)
  target_compile_definitions(tflm ${scope}
    CMSIS_NN ARM_NN_ENABLE_F16=0 ARM_NN_ENABLE_F32=0)
  target_include_directories(tflm SYSTEM ${scope} ${cmsis_DIR}
    ${cmsis_DIR}/CMSIS/Core/Include ${cmsis_nn_DIR} ${cmsis_nn_DIR}/Include)
endif()
