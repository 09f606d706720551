"""The options of every network and teacher, free of torch: a class for each family, and the unions of them."""

from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from models.config.convolutional import ConvolutionalNetwork, ResUNetNetwork, UNetNetwork
from models.config.network import Channels, Frozen, NetworkOptions
from models.config.packaged import PackagedNetwork, SmpNetwork
from models.config.teachers import (
    CascadePvtTeacher,
    CascadeTransUNetTeacher,
    EnsembleTeacher,
    ExportedTeacher,
    HiFormerTeacher,
    MapsTeacher,
    MemberTeacher,
    MISSFormerTeacher,
    NetworkTeacher,
    ResUNetTeacher,
    SmpTeacher,
    SwinUnetTeacher,
    Teacher,
    TeacherConfig,
    TransUNetTeacher,
    UCTransNetTeacher,
    UNetTeacher,
    WeightsTeacher,
)
from models.config.transformers import (
    CascadePvtNetwork,
    CascadeTransUNetNetwork,
    HiFormerNetwork,
    MISSFormerNetwork,
    SwinUnetNetwork,
    TransformerNetwork,
    TransUNetNetwork,
    UCTransNetNetwork,
)

__all__ = [
    "CascadePvtNetwork",
    "CascadePvtTeacher",
    "CascadeTransUNetNetwork",
    "CascadeTransUNetTeacher",
    "Channels",
    "EnsembleTeacher",
    "ExportedTeacher",
    "Frozen",
    "HiFormerNetwork",
    "HiFormerTeacher",
    "MISSFormerNetwork",
    "MISSFormerTeacher",
    "MapsTeacher",
    "MemberTeacher",
    "NetworkConfig",
    "NetworkOptions",
    "NetworkTeacher",
    "ResUNetNetwork",
    "ResUNetTeacher",
    "SmpNetwork",
    "SmpTeacher",
    "SwinUnetNetwork",
    "SwinUnetTeacher",
    "Teacher",
    "TeacherConfig",
    "TransUNetNetwork",
    "TransUNetTeacher",
    "UCTransNetNetwork",
    "UCTransNetTeacher",
    "UNetNetwork",
    "UNetTeacher",
    "WeightsTeacher",
    "network_config",
    "teacher_config",
]

NetworkConfig = Annotated[ConvolutionalNetwork | TransformerNetwork | PackagedNetwork, Field(discriminator="name")]
"""What a student may be."""

_STUDENTS: TypeAdapter[NetworkConfig] = TypeAdapter(NetworkConfig)
_TEACHERS: TypeAdapter[NetworkTeacher] = TypeAdapter(Annotated[NetworkTeacher, Field(discriminator="name")])


def network_config(name: str, **options: Any) -> NetworkConfig:
    """A network's options, checked. Raises pydantic's ValidationError, a ValueError."""
    return _STUDENTS.validate_python({"name": name, **options})


def teacher_config(name: str, **options: Any) -> NetworkTeacher:
    """The same of a network as teacher."""
    return _TEACHERS.validate_python({"name": name, **options})
