# The program with all it needs. Everything in docker-compose.yml that is ours runs from this image.
#   TORCH=cpu    the CPU build, a tenth of the size: dashboard, tables
#   TORCH=cuda   what the package index gives: workers on GPUs (the driver comes from the host's NVIDIA toolkit)
#   BASE         what it begins from. Packages are those of constraints.txt; for a base that stays what it is, give a digest:
#                docker buildx imagetools inspect python:3.11-slim-bookworm    shows it
#                docker build --build-arg BASE=python:3.11-slim-bookworm@sha256:... .
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}

ARG TORCH=cpu
ARG KD_UID=1000
ARG KD_GID=1000

ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    NO_ALBUMENTATIONS_UPDATE=1 \
    HOME=/tmp

WORKDIR /app

# What changes seldom comes first: the program's own files do not make its dependencies be fetched again.
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN set -eu; \
    case "$TORCH" in \
      cpu) index="--extra-index-url https://download.pytorch.org/whl/cpu" ;; \
      cuda) index="" ;; \
      *) echo "TORCH=$TORCH: known: cpu, cuda" >&2; exit 2 ;; \
    esac; \
    mkdir -p search trainer losses models; \
    touch search/__init__.py trainer/__init__.py losses/__init__.py models/__init__.py; \
    pip install $index -c constraints.txt -e ".[dicom,metrics,onnx,smp,volumes]"

COPY models/ models/
COPY losses/ losses/
COPY trainer/ trainer/
COPY search/ search/
COPY studies/ studies/
COPY deploy/worker.sh deploy/worker.sh
# Nothing is written at a start, so that without this each would compile these files anew: a second of a processor.
RUN python -m compileall -q models losses trainer search

# Whoever runs it owns nothing in the image; folders for results are mounted.
RUN groupadd --gid "$KD_GID" --non-unique kd && useradd --uid "$KD_UID" --gid "$KD_GID" --non-unique --no-create-home kd
USER ${KD_UID}:${KD_GID}

ENTRYPOINT ["python", "-m", "search"]
CMD ["--help"]
