export default (picture) => [Object.assign(new Image(), { src: picture, alt: "picture" }), "This is home"];
